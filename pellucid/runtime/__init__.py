"""Runs the graph of a compiled network: one runtime a module behind the seam in ``base``."""
