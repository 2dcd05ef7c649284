"""What can be asked of a network. Each part has its options, its plan and its JSON in one file."""
