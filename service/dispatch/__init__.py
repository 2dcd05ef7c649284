"""Admits requests, forms batches, and runs them on the engine's threads."""
