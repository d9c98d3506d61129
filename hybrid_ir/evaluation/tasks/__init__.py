"""A file a public task besides LAReQA's."""
