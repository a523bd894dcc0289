"""Cluster files: what they say, whether Ray would take them, whether they are safe, and what they cost."""
