"""Evaluation: fresh students trained on a small set, and retrieval recall."""
