"""The compiled network: what it expects and offers, and the file that holds it."""
