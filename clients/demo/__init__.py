"""The demo: starts the service and the bridge, and shows the words of the bundled speech."""
