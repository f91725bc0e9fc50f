"""Anyone's photos become a benchmark: a table read and checked, photo by photo."""
