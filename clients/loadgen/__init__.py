"""The load generator: opens many paced streams and tells how well they were served."""
