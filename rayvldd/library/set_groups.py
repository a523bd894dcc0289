"""Groups of distilled sets whose students share data and model, so that one actor pool serves a whole group."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rayvldd.config.loading import load_untrusted_study
from rayvldd.config.settings import ImageEncoderSettings
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, Fault, InputError, StoreError, without_next_command
from rayvldd.library.further import FurtherEvaluations, prepared_privacy, stored_images, stored_name
from rayvldd.library.scoring import (
    Chosen,
    Split,
    choose_coresets,
    full_data_jobs,
    score_sets,
    seeds_of_students,
)
from rayvldd.records.json_values import text_at
from rayvldd.records.set_card import BareCard
from rayvldd.records.set_scores import ALL_PAIRS, Conditions

if TYPE_CHECKING:
    from rayvldd.console import ProgressDisplay
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.evaluation.probes import Probe
    from rayvldd.evaluation.recall import RetrievalMetrics, RetrievalRanks
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.records.full_data import ChosenRecipe
    from rayvldd.records.set_card import Card
    from rayvldd.records.set_scores import FurtherScores
    from rayvldd.workspace import Workspace

_SHARED = ("data", "model", "experts", "evaluation", "resources", "seed")
"""Settings that the students of one group have in common; settings of the distillation are not included."""


@dataclass(frozen=True, eq=False)
class SetGroup:
    """Sets whose students have data, model and training in common, and therefore the full-data bound."""

    study: Study
    """The settings of their students."""
    encoder: str
    """Name of the students' image encoder in tables."""
    base: str
    """The common settings except the encoder, which are equal for the columns of a transfer matrix."""
    sets: Mapping[str, "DistilledSet"]
    """The sets by their folders."""

    @property
    def measured_on(self) -> Conditions:
        """Conditions of the measurement; recalls are comparable if they are equal."""
        from rayvldd.data.array_cache import fingerprint
        from rayvldd.reports.measured_on import measured_on

        words = measured_on(self.study.model_dump(mode="json"))
        return Conditions(measured_on=words, trained_with=self.encoder, base=fingerprint(self.base))

    @property
    def made_with(self) -> dict[str, str]:
        """The image encoder that each set was distilled with."""
        return {name: text_at(made.origin.study, "model", "image_encoder", "name") for name, made in self.sets.items()}

    def learned_rates(self, name: str) -> tuple[float, float]:
        """The learned step sizes of a set: image side, text side."""
        return self.sets[name].lr_student_image, self.sets[name].lr_student_text


@dataclass(frozen=True)
class GroupScores:
    """Scores of the students of a group, by set or baseline: the rows of its table."""

    ranks: Mapping[str, Sequence["RetrievalRanks"]]
    coresets: Mapping[str, "Chosen"]
    """Names of the rows of real pairs."""
    fingerprints: Mapping[str, str]
    """Fingerprints of data and encoders."""
    recipe: "ChosenRecipe | None" = None
    """The recipe of the models of all pairs; None if there are none."""
    further: Sequence["FurtherScores"] = ()
    """Scores on other inputs than the split."""

    @property
    def recalls(self) -> dict[str, list["RetrievalMetrics"]]:
        """The recalls of each student."""
        return {name: [found.recalls() for found in of_row] for name, of_row in self.ranks.items()}


def load_sets(places: Sequence[str], workspace: Path) -> dict[str, "DistilledSet"]:
    """Open all sets.

    Args:
        places: Folders, or URIs of MLflow.
        workspace: Workspace whose database resolves such a URI, unless ``MLFLOW_TRACKING_URI`` names another.

    Raises:
        StoreError: if one location has no set, or a damaged one.
        InputError: if several do.
    """
    from rayvldd.distillation.distilled_set import DistilledSet

    sets, errors = {}, []
    for place in places:
        try:
            sets[place] = DistilledSet.load(place, workspace)
        except StoreError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        faults = [Fault("SET", without_next_command(error), "a folder with a card.json") for error in errors]
        raise InputError(faults, next_command="rayvldd compare, which lists the studies and their sets")
    return sets


def group_sets(
    sets: Mapping[str, "DistilledSet"],
    encoders: Mapping[str, ImageEncoderSettings],
    overrides: Sequence[str] = (),
    check: Callable[[Study, str], None] | None = None,
    next_command: str = "",
) -> list[SetGroup]:
    """Group the sets, once for every encoder, and check all models and data before any work.

    Args:
        sets: The sets by their folders.
        encoders: Encoders for the students; default: each set's own encoder. A name that is equal to that of the
            encoder of one of the sets refers to that encoder, with its weights and other settings.
        overrides: ``KEY=VALUE`` texts that override settings of the cards.
        check: Called with every study and its file; raises its faults.
        next_command: Command to run once the faults are corrected.

    Raises:
        InputError: with the faults of all cards, models and data.
    """
    studies, faults = _studies_of(sets, overrides)
    known = {study.model.image_encoder.name: study.model.image_encoder for study in studies.values()}
    groups: dict[tuple[str, str], SetGroup] = {}
    for name, study in studies.items():
        own = study.model.image_encoder
        for label, settings in (encoders or {own.name: own}).items():
            bare = settings == ImageEncoderSettings(name=settings.name)
            meant = own if label == own.name and bare else known.get(label, settings) if bare else settings
            of_group = study.at({"model.image_encoder": meant.model_dump(mode="json")})  # type: ignore[dict-item]
            key = (_key(of_group), label)
            group = groups.get(key) or SetGroup(of_group, label, _key(study, without_encoder=True), {})
            groups[key] = replace(group, sets={**group.sets, name: sets[name]})
    for group in groups.values():
        try:
            if check:
                check(group.study, f"{next(iter(group.sets))}/card.json")
        except InputError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if faults:
        raise InputError(faults, next_command=f"correct them, then: {next_command}")
    return list(groups.values())


def _studies_of(sets: Mapping[str, "DistilledSet"], overrides: Sequence[str]) -> tuple[dict[str, Study], list[Fault]]:
    studies, faults = {}, []
    for name, distilled in sets.items():
        try:
            studies[name] = study_of_card(name, distilled.card, overrides)
        except ConfigError as error:
            faults += error.faults
    return studies, faults


def study_of_card(folder: str, card: "Card", overrides: Sequence[str] = ()) -> Study:
    """The settings that a set was distilled with, with overrides.

    Raises:
        ConfigError: naming the card if its settings are invalid.
    """
    file = f"{folder}/card.json"
    try:
        if isinstance(card, BareCard):
            raise ConfigError([Fault(f"{file}: study", "is missing", "the settings that the set was made with")])
        return load_untrusted_study(card.study, file, overrides)
    except ConfigError as error:
        raise ConfigError(error.faults, next_command="rayvldd evaluate --help") from None


def score_group(
    group: SetGroup,
    workspace: "Workspace",
    students: int | None,
    split: Split,
    full_data: bool,
    methods: Sequence[str],
    rates: tuple[float, float] | None,
    further: FurtherEvaluations,
    display: "ProgressDisplay",
    command: str,
) -> tuple["RetrievalTask", GroupScores]:
    """Train and score the students of all sets of a group and of the baselines together.

    Returns:
        The task of the group, and the scores of each student: of the sets, coresets of the same sizes, and all pairs.

    Raises:
        StoreError: if a set's captions come from another text encoder, or its images have another size.
    """
    from rayvldd.data.prepared_arrays import open_cache
    from rayvldd.models.retrieval_task import load_task
    from rayvldd.runtime.evaluation import StudentSpec
    from rayvldd.runtime.full_data import choose_recipe

    study, cache = group.study, open_cache(workspace.cache)
    task = load_task(study.data, study.model, cache, on_progress=display.progress)
    evaluations = further.prepared(task, split, cache, display)
    seeds = seeds_of_students(study, split, students)
    choice = choose_recipe(study, workspace.cache, task.fingerprints, display) if full_data else None
    jobs = {ALL_PAIRS: full_data_jobs(choice, seeds)} if choice else {}  # the longest first
    for name, distilled in group.sets.items():
        for difference in _differences(name, group, task):
            display.warn(f"note: {difference}")
        pairs = distilled.pairs(task)
        if rates:
            pairs = replace(pairs, lr_image=rates[0], lr_text=rates[1])
        jobs[name] = [StudentSpec(pairs, seed) for seed in seeds]
        if further.robustness:
            stored = replace(pairs, images=stored_images(distilled.images, task))
            jobs[stored_name(name)] = [StudentSpec(stored, seed) for seed in seeds]
    chosen: list[Chosen] = []
    if methods:
        numbers = sorted({len(distilled) for distilled in group.sets.values()})
        chosen = choose_coresets(study, task, workspace, methods, numbers, seeds, display)
        jobs |= {coreset.name: coreset.jobs(seeds) for coreset in chosen}
    probes = [probe for evaluation in evaluations for probe in evaluation.probes]
    own: Mapping[str, Sequence[Probe]] = {}
    if further.privacy:
        privacy, own = prepared_privacy(task, group.sets, jobs)
        evaluations.append(privacy)
    for name, specs in jobs.items():
        of_students = [[probe] for probe in own[name]] if name in own else [[]] * len(specs)
        jobs[name] = [replace(spec, probes=[*probes, *more]) for spec, more in zip(specs, of_students, strict=True)]
    scores = score_sets(study, task, workspace, jobs, split, display, command)
    rows = [*(name for name in jobs if name != ALL_PAIRS), *([ALL_PAIRS] * full_data)]
    found = [evaluation.scores(group.measured_on, {name: scores[name] for name in rows}) for evaluation in evaluations]
    coresets = {coreset.name: coreset for coreset in chosen}
    stored_sets = {stored_name(name) for name in group.sets}
    by_row = {name: [student.ranks for student in scores[name]] for name in rows if name not in stored_sets}
    return task, GroupScores(by_row, coresets, task.fingerprints, choice.best if choice else None, found)


def _key(study: Study, *, without_encoder: bool = False) -> str:
    values = study.model_dump(mode="json", include=set(_SHARED))
    if without_encoder:
        del values["model"]["image_encoder"]
    return json.dumps(values, sort_keys=True)


def _differences(name: str, group: SetGroup, task: "RetrievalTask") -> list[str]:
    """Differences of data and encoders from those of a set; another text encoder raises an error."""
    made, now = group.sets[name].origin.fingerprints, task.fingerprints
    named = {"data": "the data"}
    if group.study.model.image_encoder.name == group.made_with[name]:
        named["image_encoder"] = "the image encoder's weights"
    return [
        f"{name}: {what} (fingerprint {now[key]}) differ from those the set was made with ({made[key]})"
        for key, what in named.items()
        if made[key] != now[key]
    ]
