"""Compare the versions of Ray, Python and rayvldd on both ends of a cluster connection.

Run as a module on the cluster, it prints the installed versions; its exit code shows whether they are the expected
ones.
"""

import sys

from rayvldd.clusters.versions import Versions
from rayvldd.errors import RayvlddError

EXIT_MISMATCH = 3
"""Exit code of this module if the versions differ from the expected ones."""


def mismatch(where: str, faults: list[str]) -> RayvlddError:
    """Build the error for a cluster that runs other releases.

    Args:
        where: Name of the cluster or node, at the beginning of the sentence.
        faults: From :meth:`Versions.faults_against`.
    """
    return RayvlddError(
        f"{where} cannot be used: {'; '.join(faults)}; allowed: the same releases on both sides",
        next_command="ray up -y clusters/on_prem.yaml, or your cluster's file: it installs this checkout on every node",
    )


def main(arguments: list[str]) -> int:
    """Print the installed versions and compare them with the argument."""
    here = Versions.here()
    print(here.as_line, flush=True)
    return 0 if here.as_argument() == arguments[0] else EXIT_MISMATCH


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
