"""How what a store holds lies in Parquet files: columns of groups, and collections.

Other rooms import what the room of the data lists, and nothing of this folder.
"""
