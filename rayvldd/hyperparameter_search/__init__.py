"""Hyperparameter search: Optuna proposes points, Ray Tune runs them as parallel trials, the best set is tested once."""
