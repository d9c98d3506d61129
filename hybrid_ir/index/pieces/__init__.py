"""Long passages in an index: each has several vectors, one a piece of its text, and is found by the best of them."""
