"""Words in an index: which passages have them, what all shards have of each, and the best passages by BM25."""
