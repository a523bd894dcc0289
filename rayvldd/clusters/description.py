"""Text output of a cluster report: the cost."""

from rayvldd.clusters.checking import ClusterReport


def describe_cost(report: ClusterReport) -> list[str]:
    """Describe the cost of the nodes per hour, or how to look it up."""
    if report.provider == "local":
        return ["nothing of a provider: these machines are there anyway"]
    if report.provider == "cloudformation":
        return ["the volume alone, by the gigabyte and month: https://aws.amazon.com/ebs/pricing"]
    if report.provider == "kubernetes":
        return ["that of the Kubernetes nodes these pods run on: see their provider"]
    if report.provider == "slurm":
        return ["that of the site"]
    usd, prices = report.usd_per_hour, report.prices
    if usd is None:
        missing = ", ".join(sorted({group.machine for group in report.groups if group.usd_per_hour is None}))
        return [f"not known: no price of {missing} in metadata.prices of the file; look up: {prices.lookup}"]
    lines = [f"{usd[0]:.2f} USD an hour with no worker, {usd[1]:.2f} with all ({prices.what}; {prices.source})"]
    if any(group.is_spot for group in report.groups):
        lines.append(f"spot is cheaper and changes; today's: {prices.lookup}")
    return lines
