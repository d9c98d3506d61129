"""Test sets of a user's own: readers of three layouts, what is checked of all of them, and how they are measured."""
