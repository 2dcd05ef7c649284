"""From a stranger's bytes to the network's pixels."""
