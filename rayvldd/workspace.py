"""The folder that everything is written to."""

import tempfile
from pathlib import Path

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
    def tracking_uri(self) -> str:
        """The embedded MLflow database: one SQLite file, no server to start."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Where the embedded MLflow keeps its artifacts."""
        return self.root / "mlartifacts"

    def check_writable(self) -> None:
        """Make the folder, and try that a file can be written into it.

        Raises:
            StoreError: naming the folder, the reason and the way out.
        """
        reason = "SQLite addresses cannot hold a '?'" if "?" in str(self.root) else None
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
