"""Runs the network on a batch. ``base`` is the seam; each other module is one runtime."""
