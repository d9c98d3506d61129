"""What becomes of an index that is there: passages are added, replaced and deleted, and what is left is compacted."""
