"""What the command line can do besides serving. Each command asks the public API, of a server or of this process."""
