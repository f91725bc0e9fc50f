"""What `explain` is made of: altered photos, what a score loses by them, and the picture of it."""
