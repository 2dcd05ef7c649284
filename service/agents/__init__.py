"""Tools for agents: the service's answers as the Model Context Protocol carries them."""
