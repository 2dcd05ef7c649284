"""Pellucid over HTTP: the library (the package ``pellucid``) as a service, and as the command ``pellucid``."""
