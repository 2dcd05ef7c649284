"""What each channel of a network responds to: an atlas is built from a folder of pictures, and read by the service."""
