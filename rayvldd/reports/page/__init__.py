"""The page that compares studies, with the same plots as PNG and the tables as CSV and LaTeX."""
