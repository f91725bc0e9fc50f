"""Photos grouped without names: who is together, and how many individuals there are."""
