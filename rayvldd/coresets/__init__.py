"""Coresets: small sets of real pairs, the baselines of distillation and where it starts from."""
