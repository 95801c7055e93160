"""Planning: what fits on cards that are not here, and how fast it is."""
