"""Where things are kept: the workspace on disk and the stores of expert trajectories."""
