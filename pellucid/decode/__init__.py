"""Decodes uploaded bytes into the pixels that a network takes. The bytes are untrusted."""
