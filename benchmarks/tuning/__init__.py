"""Tuning a method by what it scores on valid: the search, the study, its workers, and what comes of it."""
