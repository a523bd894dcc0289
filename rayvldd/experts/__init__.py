"""Experts: models trained on the real pairs, kept as trajectories of their parameters."""
