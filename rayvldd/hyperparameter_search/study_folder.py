"""The folder of one study: what it was asked to do, how far it is, what came out."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from rayvldd.config.setting import flat_settings
from rayvldd.config.study import Study, about
from rayvldd.errors import ConfigError, Fault, RayvlddError, StoreError
from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.storage.json_files import write_json_whole


class StudyFolder:
    """The one owner of every path below a study's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def settings(self) -> Path:
        """The study as it was first asked for."""
        return self.root / "study.json"

    @property
    def trials(self) -> Path:
        """One folder a trial."""
        return self.root / "trials"

    @property
    def finalists(self) -> Path:
        """One folder for each set that a finalist's point made again."""
        return self.root / "finalists"

    @property
    def earlier_trials(self) -> Path:
        """What the sampler is told of earlier studies, where it is told of any."""
        return self.root / "earlier_trials.json"

    @property
    def tune(self) -> Path:
        """Where Ray Tune may write while it runs; nothing in it is read again."""
        return self.root / "tune"

    @property
    def best(self) -> Path:
        """The best distilled set, its pictures and the result."""
        return self.root / "best"

    @property
    def choice(self) -> Path:
        """Which trial was chosen, written before test is looked at."""
        return self.root / "choice.json"

    @property
    def test(self) -> Path:
        """What the one look at test has shown."""
        return self.root / "test.json"

    @property
    def looks(self) -> Path:
        """Every look at test that a set of this study had, one line of JSON a look."""
        return self.root / "test_evaluations.jsonl"

    def chosen_sets(self) -> list[Path]:
        """The sets whose test is the study's: the best one, and those that its point made of other seeds."""
        names = read_json(self.choice).get("sets", [])
        return [self.best, *(self.finalists / name / "distilled_set" for name in names[1:])]

    def add_test_evaluation(self, command: str, num_sets: int, num_students: int) -> None:
        """Note a look at test, before what it shows is kept or printed."""
        look = {"command": command, "num_sets": num_sets, "num_students": num_students}
        with self.looks.open("a", encoding="utf-8") as file:
            file.write(json.dumps(look, ensure_ascii=False) + "\n")

    def test_evaluations(self) -> int:
        """How often test was looked at with sets of this study, as far as the commands of this workspace did."""
        lines = self.looks.read_text(encoding="utf-8").splitlines() if self.looks.is_file() else []
        return max(len(lines), int(self.test.is_file()))  # the test of a study older than this note is a look too

    @property
    def result_file(self) -> Path:
        """What came out; a study that has it is finished."""
        return self.root / "result.json"

    def ledger(self) -> Ledger:
        """The study's trials."""
        return Ledger(self.trials)

    def result(self) -> dict[str, Any] | None:
        """The result of a finished study."""
        if not self.result_file.is_file():
            return None
        # Where the set lies is said by where the folder is: it may have come from another machine.
        return {
            **read_json(self.result_file),
            "distilled_set": str(self.best),
            "test_evaluations": self.test_evaluations(),
        }

    @contextmanager
    def opened(self, study: Study) -> Iterator[None]:
        """Hold the study against other processes, after a check that it is the same study.

        Raises:
            ConfigError: when the folder holds a study of this name with other settings.
            RayvlddError: when another process runs the study.
        """
        self.check_same(study)
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.root / ".lock", timeout=0):
                if not self.result_file.is_file():  # with the values it goes on with, where some may change
                    write_json_whole(self.settings, study.model_dump(mode="json"))
                yield
        except Timeout:
            raise RayvlddError(
                f"study {study.name}: another process is running it (it holds {self.root / '.lock'})",
                next_command="wait for it, or give this study another name: --set name=ANOTHER",
            ) from None

    def check_same(self, study: Study) -> None:
        """Check that the folder is free, or holds this study.

        Raises:
            ConfigError: naming every setting that differs, with both values.
        """
        if not self.settings.is_file():
            return
        known, asked = flat_settings(_completed(read_json(self.settings))), flat_settings(study.model_dump(mode="json"))
        faults = [
            Fault(f"{self.settings}: {key}", f"is {known.get(key)!r} there, {asked.get(key)!r} here", "the value there")
            for key in sorted(known.keys() | asked.keys())
            if known.get(key) != asked.get(key) and not self._may_change(key)
        ]
        if faults:
            raise ConfigError(
                faults, next_command=f"the same command with --set name=ANOTHER, for a study beside {study.name}"
            )

    def _may_change(self, key: str) -> bool:
        """Whether the study may go on with another value of a setting, as far as it is."""
        info, chosen, finished = about(key), self.choice.is_file(), self.result_file.is_file()
        return info is not None and info.may_change.allows(chosen=chosen, finished=finished)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of a phase to what earlier sessions took for it, also where it is cut off."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = self.seconds()
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - started, 1)
            write_json_whole(self._seconds, seconds)

    def add_command(self, command: str) -> None:
        """Note what the user typed, once a session and in order; the same line again is noted once."""
        known = self.commands()
        if command not in known[-1:]:
            write_json_whole(self._commands, {"commands": [*known, command]})

    def commands(self) -> list[str]:
        """What was typed to run the study; nothing for a study older than this note."""
        return list(map(str, read_json(self._commands).get("commands", []))) if self._commands.is_file() else []

    @property
    def _commands(self) -> Path:
        return self.root / "commands.json"

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, of all sessions together."""
        return read_json(self._seconds) if self._seconds.is_file() else {}

    @property
    def _seconds(self) -> Path:
        return self.root / "seconds.json"


def study_of_set(place: str, study_name: str, studies: Path) -> Path | None:
    """The folder of the study that a distilled set belongs to, by its place or else by its card; None without one.

    Args:
        place: Folder of the set, or its address in MLflow.
        study_name: What the set's card calls the study.
        studies: Where the workspace has its studies, for sets that lie elsewhere.
    """
    above = Path(place).absolute().parents
    for root in (*above[:4], studies / study_name):
        folder = StudyFolder(root)
        if folder.settings.is_file() and folder.trials.is_dir():
            return root
    return None


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        StoreError: when the file does not hold one.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        values = error
    if not isinstance(values, dict):
        raise StoreError(f"{file}: not readable: {values}", next_command=f"move {file.parent} away and begin anew")
    return values


def _completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that an earlier release wrote, with the defaults of what has come since."""
    try:
        return Study.model_validate(settings).model_dump(mode="json")
    except ValidationError:
        return settings
