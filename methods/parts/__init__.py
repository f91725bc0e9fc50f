"""The parts methods are made of, named after the nouns of the field."""
