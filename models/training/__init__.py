"""How gates are trained and checked. Nothing that serves imports this; it needs a folder of labelled pictures.

pictures     the folder, its held-out part, crops
corruptions  the ways in which a picture is damaged, those trained on and those kept for the check
recipe       standardised gates, the frozen network around them, the loss and the loop's one step
"""
