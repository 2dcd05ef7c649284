"""Turns the arrays that a runtime computed into explanations. numpy only: arrays in, arrays out."""
