"""Settings of studies: immutable values that are validated when a study is loaded."""
