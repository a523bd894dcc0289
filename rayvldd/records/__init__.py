"""Results in files: typed, versioned, each written and read by one class."""
