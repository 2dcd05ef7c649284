"""How far a map can be trusted: pictures with its pixels taken away or put back, and what their scores say.

numpy alone, and nothing here runs a network: whoever asks sends the pictures through one and brings the scores.

- imputation: what stands in the place of pixels that were taken away
- perturbations: which pictures are scored, of the map and of its baselines; measures: scores -> curves and one verdict
"""
