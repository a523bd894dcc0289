"""The workspace: the folder of all files of the package."""

import tempfile
from pathlib import Path
from urllib.parse import quote, unquote

from rayvldd.errors import StoreError
from rayvldd.user_paths import user_path

_DATABASE = "mlflow.db"


class Workspace:
    """Defines all paths below the workspace folder.

    Properties create nothing; :meth:`check_writable` creates the folder itself, and writers of files create their
    parent folders.
    """

    def __init__(self, root: str | Path) -> None:
        """Name the folder; it need not exist.

        Raises:
            StoreError: if no folder can have this name.
        """
        self.root = user_path(root).absolute()
        try:
            self.root.exists()
        except (OSError, ValueError) as error:  # a name that is too long, or a folder that may not be entered
            raise self._unusable(error) from None

    @property
    def cache(self) -> Path:
        """Decoded images and caption embeddings, shared by all processes of the machine."""
        return self.root / "cache"

    @property
    def experts(self) -> Path:
        """Expert trajectories, one folder per recipe, shared by all studies."""
        return self.root / "experts"

    @property
    def studies(self) -> Path:
        """Contains one folder per study."""
        return self.root / "studies"

    def study(self, name: str) -> Path:
        """The folder of a study: settings, trials and result."""
        return self.studies / name

    @property
    def scores(self) -> Path:
        """Scores of evaluated sets and coresets, one file for each evaluation."""
        return self.root / "scores"

    @property
    def database(self) -> Path:
        """The embedded MLflow database: one SQLite file, no server to start."""
        return self.root / _DATABASE

    @property
    def tracking_uri(self) -> str:
        """Tracking URI of the embedded MLflow database."""
        return database_uri(self.database)

    def is_own_database(self, uri: str) -> bool:
        """Whether a tracking URI names the embedded database of this workspace."""
        file = database_file(uri)
        return file is not None and file.resolve() == self.database.resolve()

    @property
    def artifacts(self) -> Path:
        """Artifacts of the embedded MLflow."""
        return self.root / "mlartifacts"

    @property
    def open_runs(self) -> Path:
        """Contains a file for each process that logs runs to MLflow."""
        return self.root / "open_runs"

    def check_writable(self) -> None:
        """Create the folder, and check that files can be written to it.

        Raises:
            StoreError: with the folder, the reason and the next command.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError | ValueError) -> StoreError:
        reason = getattr(error, "strerror", None) or str(error)
        return StoreError(
            f"workspace {self.root}: cannot be used: {reason}; allowed: a folder that you may write to",
            next_command="repeat the command with --workspace FOLDER",
        )


def database_uri(file: Path) -> str:
    """The URI of a SQLite file, with quoting as SQLAlchemy expects; a ``?`` would end the path."""
    name = str(file)
    if not {"%", "?"} & set(name):
        return f"sqlite:///{name}"
    # With the name of its driver: after "sqlite:///" MLflow would create the folders of the quoted path.
    return f"sqlite+pysqlite:///{quote(name)}"


def database_file(uri: str) -> Path | None:
    """The SQLite file of a URI; None for other URIs."""
    scheme, _, rest = uri.partition("://")
    name = unquote(rest.partition("?")[0].removeprefix("/"))
    return Path(name) if scheme.partition("+")[0] == "sqlite" and name else None


def workspace_of_database(uri: str) -> Workspace | None:
    """The workspace whose embedded database a tracking URI names; None for other databases and for servers."""
    file = database_file(uri)
    return Workspace(file.parent) if file is not None and file.name == _DATABASE else None
