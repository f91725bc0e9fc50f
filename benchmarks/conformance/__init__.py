"""The conformance suite: what every method must keep to, tried on a tiny drawn benchmark."""
