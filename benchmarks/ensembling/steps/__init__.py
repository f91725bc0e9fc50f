"""What can be done to scores once they are there: one step a file, each inductive or transductive."""
