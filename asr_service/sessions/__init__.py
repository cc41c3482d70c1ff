"""A front end's side of a stream: who is admitted, what waits on its way in and on its way out."""
