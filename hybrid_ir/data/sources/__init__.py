"""A file a kind of source: `read_KIND` yields its records as `Group | Rejected`; a bad record does not stop the rest.

To add one: a section in config/sources.py, a file here, a case in data/inputs.py. data/read_files.py reads lines, TSV,
JSON lines and Parquet, and `checked_group` makes the groups; records.py is the one to start from.
"""
