"""Commands that change an index that is there."""
