"""The folder that everything is written to."""

import tempfile
from pathlib import Path
from urllib.parse import quote, unquote

from rayvldd.errors import StoreError


class Workspace:
    """The one owner of every path below one folder.

    Nothing is made by asking for a path; :meth:`check_writable` makes the folder itself, and whoever writes a file
    makes the folders above it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()

    @property
    def cache(self) -> Path:
        """Decoded images and caption embeddings, shared by all processes of the machine."""
        return self.root / "cache"

    @property
    def experts(self) -> Path:
        """Expert trajectories, one folder a recipe, shared by all studies."""
        return self.root / "experts"

    @property
    def studies(self) -> Path:
        """One folder a study."""
        return self.root / "studies"

    def study(self, name: str) -> Path:
        """The folder of one study: its settings, trials and result."""
        return self.studies / name

    @property
    def scores(self) -> Path:
        """Scores of evaluated sets and coresets, one file for each evaluation."""
        return self.root / "scores"

    @property
    def tracking_uri(self) -> str:
        """The embedded MLflow database: one SQLite file, no server to start."""
        return database_uri(self.root / "mlflow.db")

    @property
    def artifacts(self) -> Path:
        """Where the embedded MLflow keeps its artifacts."""
        return self.root / "mlartifacts"

    def check_writable(self) -> None:
        """Make the folder, and try that a file can be written into it.

        Raises:
            StoreError: naming the folder, the reason and the way out.
        """
        reason = None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
        if reason:
            raise StoreError(
                f"workspace {self.root}: cannot be used: {reason}; allowed: a folder that you may write to",
                next_command="repeat the command with --workspace FOLDER",
            )


def database_uri(file: Path) -> str:
    """The address of a SQLite file. SQLAlchemy reads it with quoting, and ends it at a ``?``."""
    name = str(file)
    if not {"%", "?"} & set(name):
        return f"sqlite:///{name}"
    # By the name of its driver: behind "sqlite:///" MLflow would make the folders of the path as it is quoted.
    return f"sqlite+pysqlite:///{quote(name)}"


def database_file(uri: str) -> Path | None:
    """The SQLite file that an address names; None where it names something else."""
    scheme, _, rest = uri.partition("://")
    name = unquote(rest.partition("?")[0].removeprefix("/"))
    return Path(name) if scheme.partition("+")[0] == "sqlite" and name else None
