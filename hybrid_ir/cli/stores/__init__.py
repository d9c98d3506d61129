"""Commands that make one store of another."""
