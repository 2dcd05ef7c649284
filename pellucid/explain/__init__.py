"""From what a runtime computed to explanations: numpy arrays in, numpy arrays out."""
