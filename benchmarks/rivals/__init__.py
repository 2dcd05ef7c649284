"""What one would otherwise write to serve the same network: as well as a competent engineer does it by hand."""
