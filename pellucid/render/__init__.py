"""Draws numbers as pictures: colour maps, composition, encoding. numpy and Pillow only."""
