"""Tuning a method by what it scores on valid: the space, the budget, the workers, and their study."""
