"""That both ends of a cluster run the same Ray, the same Python, the same rayvldd.

Run as a module on the cluster, it prints what is there, and its exit code says whether that is what was asked for.
"""

import sys

from rayvldd.clusters.versions import Versions
from rayvldd.errors import RayvlddError

EXIT_MISMATCH = 3
"""Exit code of this module where the versions are not those asked for."""


def mismatch(where: str, faults: list[str]) -> RayvlddError:
    """The refusal of a cluster that runs other releases.

    Args:
        where: The cluster or node, at the beginning of the sentence.
        faults: From :meth:`Versions.faults_against`.
    """
    return RayvlddError(
        f"{where} cannot be used: {'; '.join(faults)}; allowed: the same releases on both sides",
        next_command="ray up -y clusters/on_prem.yaml, or your cluster's file: it installs this checkout on every node",
    )


def main(arguments: list[str]) -> int:
    """Print what runs here, and compare it with what the one argument asks for."""
    here = Versions.here()
    print(here.as_line, flush=True)
    return 0 if here.as_argument() == arguments[0] else EXIT_MISMATCH


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
