"""How gates are trained and checked. Nothing that serves imports this; it needs a folder of labelled pictures.

pictures     the folder, its held-out part, crops
corruptions  the ways in which a picture is damaged, those trained on and those kept for the check
train_gates  the command: a folder of labelled pictures in, gate weights out
check_gates  the command: what the gates change, and how much of it needs the picture
recipe       standardised gates, the frozen network around them, the loss and the loop's one step
"""
