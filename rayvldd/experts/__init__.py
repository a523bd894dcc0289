"""Experts: models trained on the real pairs and stored as parameter trajectories."""
