"""Validate a cluster file against Ray's schema and our security rules, and describe it."""

from dataclasses import dataclass
from pathlib import Path

from rayvldd.clusters.account_rules import account_faults
from rayvldd.clusters.aws_rules import aws_faults
from rayvldd.clusters.cluster_file import ClusterFile, Edit, read_cluster_file
from rayvldd.clusters.gcp_rules import gcp_faults
from rayvldd.clusters.kubernetes_rules import kubernetes_faults
from rayvldd.clusters.nodes import NodeGroup, Prices, node_groups, prices_of, usd_per_hour
from rayvldd.clusters.ray_rules import (
    TOKEN,
    address_faults,
    key_faults,
    loopback_faults,
    mount_faults,
    ssh_key_faults,
    token_faults,
    version_faults,
)
from rayvldd.clusters.ray_schema import consistency_faults, schema_faults, with_defaults
from rayvldd.clusters.slurm_rules import slurm_faults
from rayvldd.clusters.versions import Versions
from rayvldd.errors import ConfigError, Fault
from rayvldd.records.form import Values
from rayvldd.records.json_values import JsonObject, text_at, value_at
from rayvldd.user_paths import is_file

PROVIDERS = ("local", "aws", "gcp")
"""Supported providers; Ray's defaults for others have not been reviewed."""

_START = {
    "ray": "RAY_AUTH_MODE=token ray up -y {file}",
    "kubernetes": "kubectl apply -f {file}",
    "slurm": "sbatch {file} STUDY",
    "cloudformation": "the line `aws cloudformation deploy …` at the top of {file}",
}


class CostRange(Values):
    """Cost per hour in USD at on-demand prices."""

    least: float
    most: float


class PriceSource(Values):
    """Source of the prices of a file."""

    what: str
    source: str
    lookup: str


class ClusterOutput(Values):
    """The output of ``rayvldd check --cluster FILE --json``."""

    file: str
    provider: str
    versions: Versions
    nodes: list[NodeGroup]
    usd_per_hour: CostRange | None
    prices: PriceSource
    unedited: list[Edit]
    next_command: str


@dataclass(frozen=True)
class ClusterReport:
    """Description of a valid cluster file."""

    file: ClusterFile
    provider: str
    groups: list[NodeGroup]
    prices: Prices
    versions: Versions
    has_token: bool
    """Whether the user's machine has a token; ``ray get-auth-token --generate`` creates one."""

    @property
    def unedited(self) -> list[Edit]:
        """Marked values that still have to be edited."""
        return self.file.unedited

    @property
    def usd_per_hour(self) -> tuple[float, float] | None:
        """Minimum and maximum cost per hour at on-demand prices."""
        return usd_per_hour(self.groups)

    @property
    def next_command(self) -> str:
        """The next command for the user."""
        if self.unedited:
            return f"edit {self.file.path}, then: rayvldd check --cluster {self.file.path}"
        start = _START[self.file.kind].format(file=self.file.path)
        if self.file.kind == "ray" and not self.has_token:
            return f"ray get-auth-token --generate > /dev/null && {start}"
        return start

    def described(self) -> ClusterOutput:
        """The output of ``--json``."""
        usd, prices = self.usd_per_hour, self.prices
        return ClusterOutput(
            file=str(self.file.path),
            provider=self.provider,
            versions=self.versions,
            nodes=self.groups,
            usd_per_hour=None if usd is None else CostRange(least=usd[0], most=usd[1]),
            prices=PriceSource(what=prices.what, source=prices.source, lookup=prices.lookup),
            unedited=self.unedited,
            next_command=self.next_command,
        )


def check_cluster(path: str | Path) -> ClusterReport:
    """Read and validate a cluster file, without starting anything or contacting a cloud.

    Raises:
        ConfigError: listing every fault of the file and of its account file.
    """
    file = read_cluster_file(path)
    try:
        return _checked(file)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        # The rules read values deep in sections that only the cloud's own schema describes.
        problem = f"has a value of another type or form than the provider expects ({type(error).__name__}: {error})"
        fault = Fault(str(file.path), problem, "values as in the files of the folder clusters")
        raise ConfigError(
            [fault], next_command=f"rayvldd check --cluster {file.path} --debug, for the place"
        ) from error


def _checked(file: ClusterFile) -> ClusterReport:
    """Apply Ray's schema and our rules to a file."""
    driver = Versions.here()
    config: JsonObject = {}
    if file.kind == "ray":
        config, faults = _checked_by_ray(file)
        faults += _faults_by_rule(file, config or file.config, driver) if not faults else []
        provider = text_at(file.config, "provider", "type")
    else:
        provider = file.kind
        if file.kind == "kubernetes":
            faults = kubernetes_faults(file, driver)
        else:
            faults = slurm_faults(file) if file.kind == "slurm" else account_faults(file)
    if faults:
        raise ConfigError(faults, next_command=f"correct the file, then: rayvldd check --cluster {file.path}")
    groups = [] if file.kind == "cloudformation" else node_groups(file, config)
    has_token = is_file(TOKEN)
    return ClusterReport(file, provider, groups, prices_of(file), driver, has_token)


def _checked_by_ray(file: ClusterFile) -> tuple[JsonObject, list[Fault]]:
    """Return the file with Ray's defaults, and the faults that Ray would report."""
    provider = value_at(file.config, "provider", "type")
    if provider not in PROVIDERS:
        return {}, [Fault(f"{file.path}: provider.type", f"got {provider!r}", ", ".join(PROVIDERS))]
    name = str(file.path)
    faults = schema_faults(file.config, name)
    if faults:
        return {}, faults
    try:
        config = with_defaults(file.config)
    except (Exception, SystemExit) as error:  # Ray raises various exceptions, and SystemExit
        return {}, [Fault(name, f"Ray cannot use it: {error or type(error).__name__}")]
    return config, schema_faults(config, name) or consistency_faults(config, name)


def _faults_by_rule(file: ClusterFile, config: JsonObject, driver: Versions) -> list[Fault]:
    """Return the violations of our rules in a file that Ray accepts."""
    name = str(file.path)
    faults = token_faults(config, name) + loopback_faults(config, name) + key_faults(config, file.text, name)
    faults += version_faults(config, name, driver) + mount_faults(config, name)
    if text_at(config, "provider", "type") == "local":
        faults += address_faults(config, name) + ssh_key_faults(config, name)
    if text_at(config, "provider", "type") == "aws":
        faults += aws_faults(config, file.path)
    if text_at(config, "provider", "type") == "gcp":
        faults += gcp_faults(config, file.path)
    return faults
