"""Writing into the index that is served: what a request may ask, and who makes the version."""
