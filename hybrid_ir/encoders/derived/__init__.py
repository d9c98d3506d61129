"""Encoders made of an encoder without training: fewer pieces, layers or dimensions, no language means."""
