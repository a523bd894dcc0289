"""SGD on pairs: the one training loop of experts, students and the full-data bound."""
