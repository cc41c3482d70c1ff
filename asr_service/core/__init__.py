"""Values, commands, errors and protocols that the other rooms share; imports nothing of the service."""
