"""Crops: what finds the animal, and the window a method sees it through."""
