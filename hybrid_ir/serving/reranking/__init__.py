"""The second stage: a cross-encoder reads each hit together with the query, within a deadline."""
