"""torch module -> compiled network. Whatever serves or explains one needs nothing of this, and no torch."""
