"""A table of the nodes of a cluster file."""

from collections.abc import Sequence

from rayvldd.clusters.nodes import NodeGroup
from rayvldd.reports.table import Cell, Table, numbers, texts


def node_table(groups: Sequence[NodeGroup]) -> Table:
    """One row per node group."""
    columns = [*texts("nodes", "machine", "how many", "each has"), *numbers("on-demand USD/h", number="{:g}")]
    return Table(columns, [_row(group) for group in groups], name="nodes")


def _row(group: NodeGroup) -> list[Cell]:
    count = str(group.most) if group.fewest == group.most else f"{group.fewest} to {group.most}"
    resources = ", ".join(f"{name} {amount}" for name, amount in group.resources.items())
    name = f"{group.name} (spot)" if group.is_spot else group.name
    return [name, group.machine, count, resources or "detected by Ray", group.usd_per_hour]
