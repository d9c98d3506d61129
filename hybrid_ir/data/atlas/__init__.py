"""The embedded data set: facts of CLDR in eleven languages."""
