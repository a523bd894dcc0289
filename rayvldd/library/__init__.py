"""What the command line does, as functions: distil, search, evaluate, compare."""
