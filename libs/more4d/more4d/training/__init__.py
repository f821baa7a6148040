"""Training: one loop, and a small objective for each network."""
