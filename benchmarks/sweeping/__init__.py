"""What `sweep` is made of: a plan of cells, their state, the processes that run them, and the loop."""
