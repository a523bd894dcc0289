"""Ray: the cluster, actor pools, jobs and data pipelines."""
