"""What is said: metrics, statistics, the leaderboard."""
