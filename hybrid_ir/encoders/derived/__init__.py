"""Encoders made of an encoder without training: fewer pieces, fewer layers, no language means."""
