"""Metrics and statistics, the leaderboard, and what the commands print."""
