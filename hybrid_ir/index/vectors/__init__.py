"""Vectors beside an index: written by themselves for other programs, and taken from a file where others made them."""
