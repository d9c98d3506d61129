"""What all searches of an index in one process share: its nearest lists, its threads, and what was asked for last."""
