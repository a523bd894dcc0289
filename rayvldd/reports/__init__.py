"""Output for users: tables for the terminal, pictures of distilled sets, plots of searches, the comparison page."""
