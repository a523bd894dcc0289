"""Read cluster files, validate them against Ray's schema and security rules, and estimate their cost."""
