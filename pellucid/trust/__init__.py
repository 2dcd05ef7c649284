"""Measures how far a heat map can be trusted: removes or restores its pixels, and evaluates the network's scores.

numpy only. Nothing here runs a network: the caller runs the pictures through it and passes the scores back.

- trials: which pictures to score, for the map and for the baseline maps that it is compared with
- imputation: fills removed pixels from their neighbours
- measures: scores -> curves, areas, and one finding
- ranks: rank correlation
"""
