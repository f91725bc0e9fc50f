"""The page: leaderboard, runs and their photos as one file that needs no network."""
