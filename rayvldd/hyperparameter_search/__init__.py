"""The search: Optuna proposes points, Ray Tune runs them as trials side by side, the best is tested once."""
