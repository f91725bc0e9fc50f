"""What runs leave behind: while they are unfinished, and when they are finished."""
