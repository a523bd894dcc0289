"""Distillation: the synthetic set, the student's walk on it, its exact gradient, and the outer loop."""
