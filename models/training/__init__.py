"""Trains and checks gates on a folder of labelled pictures. No serving code imports this package.

pictures     the folder, its held-out part, crops
corruptions  ways to damage a picture: those used in training, and those held out for the check
train_gates  the command that trains gates
check_gates  the command that compares a network with and without its gates
recipe       standardised gates inside a frozen network, and the loss
"""
