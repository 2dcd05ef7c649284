"""What can be asked of a network, the plan that it makes, and the answer as plain data."""
