"""Puts the service together and runs it: the only room that knows all others."""
