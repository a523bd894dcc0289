"""Coresets: small sets of real pairs, used as baselines and as initialisation of distillation."""
