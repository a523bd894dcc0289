"""Ray runtime: clusters, actor pools, jobs and data pipelines."""
