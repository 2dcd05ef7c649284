"""What replies show: figures, and two maps on one scale."""
