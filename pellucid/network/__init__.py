"""The compiled network: its file, its graph, its description, and its lookup by name."""
