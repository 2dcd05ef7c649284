"""Whether maps mark what they should: on pictures in which the true place is known, method by method, layer by layer.

scenes, boxes ─ pictures with their true boxes ─> maps, libraries ─ heat maps ─> scores ─ measure ─> raw figures
      ─> report, plot ─> docs/quality.md
"""
