"""Distillation: the synthetic set, the distillation methods and the outer loop."""
