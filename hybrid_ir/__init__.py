"""Hybrid-batch training and serving of multilingual dense retrieval encoders on Ray."""

__version__ = "0.1.0"
