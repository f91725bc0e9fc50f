"""Photos of a benchmark that show one picture or one moment, and whether a split learns from one and tests on
the other."""
