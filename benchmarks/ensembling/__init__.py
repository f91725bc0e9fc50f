"""Finished runs combined: members that may be, rules by which they are, and the run that comes of it."""
