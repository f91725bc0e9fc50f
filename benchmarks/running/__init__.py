"""One run: the fold that is seen, the harness, calibration, evaluation and what is kept."""
