"""Reads networks from files of other formats as torch modules."""
