"""Frozen folds: protocols that propose them, the store that keeps and verifies them."""
