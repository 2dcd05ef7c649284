"""Runs the graph of a compiled network. Each runtime is one module that implements the protocol in ``base``."""
