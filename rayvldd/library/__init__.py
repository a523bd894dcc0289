"""The functions behind the command line: distil, search, evaluate, compare."""
