"""Sweeps: a plan of methods, folds and seeds, and the loop that runs its cells as processes."""
