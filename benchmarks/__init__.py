"""What is measured, each figure in one run with what it is compared with. `python -m benchmarks --help`."""
