"""Two encoders or more on one test: side by side, before and after a correction, before and after an export."""
