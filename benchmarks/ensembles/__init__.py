"""Ensembles of finished runs: their scores fused, stacked and post-processed."""
