"""What is chosen on valid for every method alike, and what the judge says of its scores."""
