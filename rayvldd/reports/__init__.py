"""What people look at: tables for the terminal, pictures of distilled sets and of a search."""
