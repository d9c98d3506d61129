"""Which passages a search may find, by their metadata: what a filter says, and which rows pass it."""
