"""Bytes under names: a folder, a bucket, Ray's object store; leases and atomic writes."""
