"""Values, commands and errors that rooms hand to each other; imports nothing of the service."""
