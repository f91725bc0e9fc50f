"""Losses, with the heads and the miners they need."""
