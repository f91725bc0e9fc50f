"""Pairs of photos: which are drawn, what compares them, what is learned from them."""
