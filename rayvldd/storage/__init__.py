"""Storage backends (folder, S3 bucket, Ray object store), leases and atomic file writes."""
