"""The five studies: questions that a sweep answers."""
