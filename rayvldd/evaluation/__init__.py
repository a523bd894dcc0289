"""Evaluation: train fresh students on a small set and measure their retrieval recall."""
