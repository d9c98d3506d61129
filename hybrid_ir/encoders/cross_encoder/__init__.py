"""Cross-encoders: models that read a query and a passage together, and give the pair a score."""
