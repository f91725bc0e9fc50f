"""A run's answers as the file that a competition takes."""
