"""Typed and versioned records of results; one class writes and reads each kind of file."""
