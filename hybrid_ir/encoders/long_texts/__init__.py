"""Texts that are longer than an encoder reads: where they are cut into pieces."""
