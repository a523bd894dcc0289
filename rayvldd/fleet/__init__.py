"""Ray actors that train experts side by side, and tasks that score sets in parallel."""
