"""Matching: what two photos have in common by their key points."""
