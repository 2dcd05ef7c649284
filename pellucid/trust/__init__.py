"""How far a map can be trusted: pictures with its pixels taken away or put back, and what their scores say.

numpy alone, and nothing here runs a network: whoever asks sends the pictures through one and brings the scores.

- imputation: what stands in the place of pixels that were taken away
- trials: which pictures are scored, of the map and of its rivals; measures: scores -> curves and one verdict
- ranks: rank correlation
"""
