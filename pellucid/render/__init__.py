"""From numbers to pictures: colour, composition, encoding. numpy and Pillow only."""
