"""Networks as torch modules. Only compiling and training need this package.

``catalog`` is registered as the entry point ``pellucid.networks``. ``training`` is not in the wheel.
"""
