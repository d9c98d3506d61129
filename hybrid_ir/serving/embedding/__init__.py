"""Texts that are to be encoded: the routes, in the forms that clients have."""
