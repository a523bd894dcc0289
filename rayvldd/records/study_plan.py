"""Plan of a study and estimate of its cost, as ``check`` and ``--dry-run`` show them."""

from pydantic import JsonValue

from rayvldd.config.domains import SettingValue
from rayvldd.records.form import Values
from rayvldd.records.study_outcome import LearnedStudy


class PlannedExperts(Values):
    """A set of experts that a study uses."""

    point: dict[str, SettingValue]
    experts: int
    existing: int
    """Upper bound of the number of experts that are in the store."""
    epochs: int


class PlannedTrials(Values):
    """The trials of a study."""

    total: int
    """Trials that a search runs at most."""
    points: int | None
    """Points of a finite space; None for others."""
    allowed: int
    """``search.num_trials``."""
    ended: int
    cut_off: int
    at_a_time: int
    time_budget_s: float | None


class PlannedSearch(Values):
    """The search of a study."""

    sampler: str
    scheduler: str
    objectives: list[str]
    searched: list[str]
    not_searched_here: list[str]
    """Settings whose conditions are fulfilled at no point."""


class PlannedFinalists(Values):
    """The distillations of the best trials with new seeds."""

    trials: int
    sets_of_each: int


class PlannedStorage(Values):
    """Where a study reads and writes."""

    cache: str
    experts: str
    study: str
    best: str
    tracking_uri: str


class PlannedLearning(Values):
    """Earlier studies of a search, and what they suggest."""

    learn_from: str
    """The value of ``--learn-from``."""
    studies: list[LearnedStudy]
    """With their weights before there are results."""
    first_points: list[dict[str, SettingValue]]
    """Points that the study begins with, its own initial points included."""


class Plan(Values):
    """Plan of a study; the output of ``sweep --dry-run --json``."""

    study: str
    settings: dict[str, JsonValue]
    expert_sets: list[PlannedExperts]
    methods: list[str]
    trials: PlannedTrials
    search: PlannedSearch
    finalists: PlannedFinalists
    resources: dict[str, JsonValue]
    storage: PlannedStorage
    images_left_out: dict[str, int]
    """Number of images in each list of images that are left out, by its file."""
    is_finished: bool
    reopens: bool
    """Whether a finished study continues."""
    notes: list[str]
    """What users should know of the settings at the first point, a sentence each."""
    learning: PlannedLearning | None = None
    """None if there are no earlier studies."""


class Probe(Values):
    """Seconds of each kind of work, measured on this machine with the threads of a trial."""

    prepare: float
    """Reading and encoding of data that was not in the cache; the search can use it now."""
    expert_epoch: float
    """One epoch of one expert over all training images."""
    outer_step: tuple[float, float]
    """One outer step at the lowest and at the highest ends of the space."""
    student: float
    """One student trained on a set and scored on validation."""
    full_data_epoch: float
    """One epoch of a model of all pairs."""


class AtATime(Values):
    """How much work of each kind runs concurrently."""

    experts: int
    trials: int


class PhaseSeconds(Values):
    """Seconds of each phase; lists have the value at both ends of the space."""

    experts: float
    a_trial: list[float]
    search: list[float]
    test: float


class Cost(Values):
    """Estimated cost of a study, with the numbers that it follows from."""

    probe: Probe
    at_a_time: AtATime
    expert_epochs: int
    trials: int
    outer_steps: int
    evaluations: int
    num_students: int
    seconds: PhaseSeconds
