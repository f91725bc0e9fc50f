"""Training: its configuration, its loop, and what of it is kept."""
