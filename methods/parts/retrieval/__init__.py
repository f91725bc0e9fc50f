"""Retrieval: the gallery, and the search for what is nearest in it."""
