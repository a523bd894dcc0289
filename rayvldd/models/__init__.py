"""Encoders, projection heads, adapters, and what of them is trained and matched."""
