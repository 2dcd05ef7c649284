"""What a convolutional network sees in an image, and why: the library."""
