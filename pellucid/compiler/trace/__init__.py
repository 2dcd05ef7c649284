"""Traces a torch module into a graph whose layers, gates and default layers have names."""
