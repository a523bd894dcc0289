"""Settings as values: what a study file may say, checked where it is loaded."""
