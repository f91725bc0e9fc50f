"""Metrics and their intervals, from scores and tables alone: numpy and pandas, no torch."""
