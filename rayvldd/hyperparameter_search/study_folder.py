"""The folder of a study: settings, progress and results."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from rayvldd.config.setting import flat_settings
from rayvldd.config.study import Study, about
from rayvldd.errors import ConfigError, Fault, RayvlddError, StoreError, did_you_mean
from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.hyperparameter_search.requests import Requests
from rayvldd.records.json_values import JsonObject
from rayvldd.records.student_card import STUDENT
from rayvldd.records.study_choice import StudyChoice
from rayvldd.records.study_notes import StudyCommands, StudySeconds, UnsentRecords
from rayvldd.records.study_outcome import StudyOutcome
from rayvldd.records.study_settings import StudySettings
from rayvldd.storage.atomic import append_line, copy_folder_whole
from rayvldd.storage.names import path_inside
from rayvldd.user_paths import user_path
from rayvldd.workspace import Workspace

_PROBED_S = 1.0
"""Time to wait for the lock of a study: commands that show its state hold it for an instant."""


class StudyFolder:
    """Defines all paths below a study's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def settings(self) -> Path:
        """The settings of the study when it was started."""
        return self.root / "study.json"

    @property
    def trials(self) -> Path:
        """Contains one folder per trial."""
        return self.root / "trials"

    @property
    def finalists(self) -> Path:
        """Contains one folder per set of a finalist."""
        return self.root / "finalists"

    @property
    def earlier_trials(self) -> Path:
        """Trials of earlier studies for the sampler, if any."""
        return self.root / "earlier_trials.json"

    @property
    def earlier_results(self) -> Path:
        """Contains one numbered folder for each result that the study had before it was reopened."""
        return self.root / "earlier_results"

    @property
    def requests(self) -> Requests:
        """Requests of other commands to the study."""
        return Requests(self.root / "requests")

    @property
    def tune(self) -> Path:
        """Folder for Ray Tune's files, which are never read."""
        return self.root / "tune"

    @property
    def best(self) -> Path:
        """The best distilled set, its pictures and the result."""
        return self.root / "best"

    @property
    def student(self) -> Path:
        """The student of the best set that the test evaluation keeps."""
        return self.best / STUDENT

    @property
    def choice(self) -> Path:
        """The chosen trial, written before the test evaluation."""
        return self.root / "choice.json"

    @property
    def test(self) -> Path:
        """Result of the test evaluation."""
        return self.root / "test.json"

    @property
    def test_log(self) -> Path:
        """All test evaluations of sets of this study, one line of JSON each."""
        return self.root / "test_evaluations.jsonl"

    @property
    def store_mark(self) -> Path:
        """Of a study with a store: names the snapshot that it was resumed from."""
        return self.root / ".stored"

    @property
    def pushed_mark(self) -> Path:
        """Of a study with a store: names the snapshot that this machine is writing."""
        return self.root / ".pushed"

    def save_settings(self, study: Study) -> None:
        """Write the settings of the study."""
        StudySettings(settings=study.model_dump(mode="json")).write(self.settings)

    def saved_settings(self) -> JsonObject:
        """The saved settings, which may lack those that were added since.

        Raises:
            StoreError: if the file cannot be read, or an earlier or a newer release wrote it.
        """
        return StudySettings.read(self.settings).settings

    def saved_study(self) -> Study:
        """The study of this folder, from its saved settings.

        Raises:
            StoreError: if the settings cannot be read, or are not those of a study of this release.
        """
        try:
            return Study.model_validate(self.saved_settings())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise StoreError(
                f"{self.settings}: not readable as {StudySettings.title}: {where}: {first['msg']}",
                next_command=StudySettings.remedy,
            ) from None

    def chosen_sets(self) -> list[Path]:
        """The tested sets: the best one, and those distilled at its point with other seeds."""
        names = StudyChoice.read(self.choice).sets
        return [self.best, *(path_inside(self.finalists, name) / "distilled_set" for name in names[1:])]

    def chosen_trial(self) -> str:
        """The id of the best trial, once it is chosen."""
        return StudyChoice.read(self.choice).trial_id

    def add_test_evaluation(self, command: str, num_sets: int, num_students: int) -> None:
        """Record a test evaluation, before its result is saved or printed."""
        look = {"command": command, "num_sets": num_sets, "num_students": num_students}
        append_line(self.test_log, json.dumps(look, ensure_ascii=False))

    def test_evaluations(self) -> int:
        """Number of test evaluations of sets of this study by the commands of this workspace."""
        lines = self.test_log.read_bytes().count(b"\n") if self.test_log.is_file() else 0
        return max(lines, int(self.test.is_file()))  # studies of earlier releases have no log

    @property
    def result_file(self) -> Path:
        """Result of the study; it exists once the study is finished."""
        return self.root / "result.json"

    @property
    def result_of_best(self) -> Path:
        """A copy of the result beside the best set, written before the tracker's records are ended."""
        return self.best / self.result_file.name

    @property
    def was_ending(self) -> bool:
        """Whether a session was cut off after it had begun to end the tracker's records, and before the result."""
        return self.test.is_file() and self.result_of_best.is_file() and not self.result_file.is_file()

    def ledger(self) -> Ledger:
        """The study's trials."""
        return Ledger(self.trials)

    def result(self) -> StudyOutcome | None:
        """The result of a finished study.

        Raises:
            StoreError: when its file cannot be read, or a newer release wrote it.
        """
        if not self.result_file.is_file():
            return None
        found = StudyOutcome.read(self.result_file)
        # The locations follow from that of the folder, which may have been moved, or come from another machine.
        now = {"distilled_set": str(self.best), "tracking_uri": self._present_tracker(found)}
        return found.model_copy(update={**now, "test_evaluations": self.test_evaluations()})

    def _present_tracker(self, result: StudyOutcome) -> str:
        """The address of the tracker; one in the workspace is in the present one, with which it was moved or copied.

        The folder of a study with a store may come without the database of the other machine.
        """
        before = StudyFolder(Path(result.distilled_set).parent)
        if before.workspace.is_own_database(result.tracking_uri):
            is_here = self.workspace.database.is_file() and not self.store_mark.is_file()
            return self.workspace.tracking_uri if is_here else result.tracking_uri
        return _below(self.root, before.root, result.tracking_uri)

    @property
    def workspace(self) -> Workspace:
        """The workspace with this study."""
        return Workspace(self.root.parent.parent)

    @contextmanager
    def opened(self, study: Study, *, reopens: bool = False) -> Iterator[None]:
        """Lock the study against other processes, after a check that the settings are the same.

        Args:
            study: The study.
            reopens: Whether a finished study continues if ``study`` has more trials or more time for them; its result
                is then kept in :attr:`earlier_results`.

        Raises:
            ConfigError: if the folder contains a study of this name with other settings.
            RayvlddError: if another process is running the study.
        """
        self.check_same(study, reopens=reopens)
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.root / ".lock", timeout=_PROBED_S):
                if reopens and (self.has_more(study) or self._is_reopening(study)):
                    self._keep_result()
                if not self.result_file.is_file():  # with the present values of settings that may change
                    self.save_settings(study)
                yield
        except Timeout:
            raise RayvlddError(
                f"study {study.name}: another process is running it (it holds {self.root / '.lock'})",
                next_command="wait for it, or give this study another name: --set name=ANOTHER",
            ) from None

    def is_running(self) -> bool:
        """Whether a process is running the study, on any machine that shares the folder."""
        lock = self.root / ".lock"
        if not lock.is_file():
            return False
        try:
            with FileLock(lock, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that this user may only read
            return False

    def has_more(self, study: Study) -> bool:
        """Whether the study is finished, and would run further trials with these settings."""
        return self.result_file.is_file() and self._has_trials_left(study)

    def _is_reopening(self, study: Study) -> bool:
        """Whether an earlier session with these settings ended while it moved the result away."""
        return self._begun_move() is not None and self._has_trials_left(study)

    def _has_trials_left(self, study: Study) -> bool:
        ledger, budget = self.ledger(), study.search.time_budget_s
        return len(ledger.ended) < study.max_trials and (budget is None or budget > ledger.search_seconds)

    def _begun_move(self) -> Path | None:
        """The folder of an earlier result that has not all of it; None if there is none."""
        places = (place for place in self.earlier_results.glob("*") if not (place / self.choice.name).is_file())
        return next(places, None) if self.choice.is_file() else None

    def _keep_result(self) -> None:
        """Move the result away, so that the study is not finished, and nothing is chosen or tested.

        The choice is moved last: without it, the move is complete.
        """
        kept = self._begun_move() or self.earlier_results / str(1 + len(list(self.earlier_results.glob("*"))))
        copy_folder_whole(self.best, kept / "best")
        for file in (self.result_file, self.test, self.choice):
            if file.is_file():  # otherwise an earlier session has moved it
                file.replace(kept / file.name)

    def check_same(self, study: Study, *, reopens: bool = False) -> None:
        """Check that the folder is empty or contains this study; if it reopens, as if it were not finished.

        Raises:
            ConfigError: naming every setting that differs, with both values.
            StoreError: if the saved settings cannot be read.
        """
        if not self.settings.is_file():
            return
        saved = flat_settings(_completed(self.saved_settings()))
        now = flat_settings(study.model_dump(mode="json"))
        faults = [
            Fault(f"{self.settings}: {key}", f"is {saved.get(key)!r} there, {now.get(key)!r} here", "the value there")
            for key in sorted(saved.keys() | now.keys())
            if saved.get(key) != now.get(key) and not self._may_change(key, reopens)
        ]
        if faults:
            raise ConfigError(
                faults, next_command=f"the same command with --set name=ANOTHER, for a study beside {study.name}"
            )

    def _may_change(self, key: str, reopens: bool) -> bool:
        """Whether the study can continue with another value of a setting, in its present state."""
        info, chosen = about(key), self.choice.is_file() and not reopens
        finished = self.result_file.is_file() and not reopens
        return info is not None and info.may_change.allows(chosen=chosen, finished=finished)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the duration of the block to that of earlier sessions, even if it is interrupted."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = self.seconds()
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - started, 1)
            StudySeconds(seconds=seconds).write(self._seconds)

    def add_command(self, command: str) -> None:
        """Record the command line of a session, in order; a repeated command is recorded once."""
        known = self.commands()
        if command not in known[-1:]:
            StudyCommands(commands=[*known, command]).write(self._commands)

    def commands(self) -> list[str]:
        """The command lines that ran the study."""
        return StudyCommands.read(self._commands).commands if self._commands.is_file() else []

    def note_unsent(self, tracker_uri: str, missing: Sequence[str]) -> None:
        """Record the writes that a tracker lacks at the study's end; without any, remove an earlier record."""
        if missing:
            UnsentRecords(tracking_uri=self._name_of(tracker_uri), missing=list(missing)).write(self._unsent)
        else:
            self._unsent.unlink(missing_ok=True)

    def unsent(self, tracker_uri: str) -> tuple[str, ...]:
        """The writes that this tracker lacked when the study ended."""
        if not self._unsent.is_file():
            return ()
        unsent = UnsentRecords.read(self._unsent)
        return tuple(unsent.missing) if unsent.tracking_uri in (tracker_uri, self._name_of(tracker_uri)) else ()

    def _name_of(self, tracker_uri: str) -> str:
        """The address of a tracker for a file; that of the workspace's database is its name, as both may be moved."""
        database = self.workspace.database
        return database.name if self.workspace.is_own_database(tracker_uri) else tracker_uri

    @property
    def has_unsent(self) -> bool:
        """Whether some tracker lacked writes when the study ended."""
        return self._unsent.is_file()

    @property
    def _unsent(self) -> Path:
        return self.root / "unsent.json"

    @property
    def _commands(self) -> Path:
        return self.root / "commands.json"

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, summed over all sessions."""
        return dict(StudySeconds.read(self._seconds).seconds) if self._seconds.is_file() else {}

    @property
    def _seconds(self) -> Path:
        return self.root / "seconds.json"


def named_study(workspace: Workspace, name: str) -> StudyFolder:
    """The folder of a study, by its name in the workspace or by its path.

    Raises:
        StoreError: if there is no such study.
    """
    for root in (workspace.study(name), user_path(name)):
        if (root / "study.json").is_file():
            return StudyFolder(root.absolute())
    known = sorted(file.parent.name for file in workspace.studies.glob("*/study.json"))
    there = f"there are: {', '.join(known)}" if known else "there is none so far"
    raise StoreError(
        f"{workspace.studies}: no study {name!r}{did_you_mean(name, known)}; {there}",
        next_command="rayvldd status, or --workspace FOLDER",
    )


def study_of_set(place: str, study_name: str, studies: Path) -> Path | None:
    """The folder of the study that a distilled set belongs to, from its location or its card; None if there is none.

    Args:
        place: Folder of the set, or its address in MLflow.
        study_name: Name of the study in the set's card.
        studies: Folder of the workspace's studies, for sets in other locations.
    """
    above = Path(place).absolute().parents
    for root in (*above[:4], studies / study_name):
        folder = StudyFolder(root)
        if folder.settings.is_file() and folder.trials.is_dir():
            return root
    return None


def _below(root: Path, before: Path, uri: str) -> str:
    """The address of plain files in a study's folder, which was ``before``; that of something else as it is."""
    inside = uri.removeprefix(f"{before.absolute().as_uri()}/")
    there = root.absolute().as_uri()
    return uri if inside == uri else f"{there}/{inside}"


def _completed(settings: JsonObject) -> JsonObject:
    """Saved settings, with the defaults of settings that were added since."""
    try:
        return Study.model_validate(settings).model_dump(mode="json")
    except ValidationError:
        return settings
