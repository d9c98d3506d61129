"""A file a format that training data comes in: each yields a stream of `Group | Rejected`."""
