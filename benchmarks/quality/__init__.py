"""Whether maps mark what they should, on pictures in which the true place is known, method by method, layer by layer.

photographs with boxes ─ boxes, pointing ─> figures of each picture ─> tables, plot ─> docs/explanation/quality.md
scenes ─ composed pictures ─> makers, ours and others' ─ measure ─> raw figures ─> report, plot ─> the same page
"""
