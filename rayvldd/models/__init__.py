"""The two-tower retrieval model: encoders, projection heads, adapters, and its trained parameters."""
