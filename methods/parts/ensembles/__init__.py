"""Ensembles: several networks of one run, members or cycles, that answer together."""
