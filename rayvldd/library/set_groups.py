"""Groups of distilled sets whose students share data and model, so that one actor pool serves a whole group."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rayvldd.config.loading import load_untrusted_study
from rayvldd.config.setting import changed_from, flat_settings, selected
from rayvldd.config.settings import ImageEncoderSettings, TextEncoderSettings
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, Fault, InputError, RayvlddError, StoreError, next_after, without_next_command
from rayvldd.library.further import FurtherEvaluations, prepared_privacy, stored_images, stored_name
from rayvldd.library.scoring import (
    Chosen,
    Split,
    choose_coresets,
    choose_recipe_in,
    full_data_jobs,
    score_sets,
    seeds_of_students,
    students_left,
)
from rayvldd.library.sets_in_order import InOrder
from rayvldd.records.json_values import JsonValue, number_at, object_at, text_at
from rayvldd.records.set_card import BareCard
from rayvldd.records.set_scores import ALL_PAIRS, Conditions

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int

    from rayvldd.console import ProgressDisplay
    from rayvldd.data.array_cache import ArrayCache
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.distillation.text_conversion import ConvertedTexts
    from rayvldd.evaluation.probes import Probe
    from rayvldd.evaluation.recall import RetrievalMetrics, RetrievalRanks
    from rayvldd.evaluation.students import Pairs
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.records.full_data import ChosenRecipe
    from rayvldd.records.set_card import Card
    from rayvldd.records.set_scores import FurtherScores
    from rayvldd.runtime.evaluation import StudentSpec
    from rayvldd.workspace import Workspace

TextConversion = Literal["auto", "as_is", "nearest", "ridge"]
"""How caption embeddings are converted, as in ``distillation/text_conversion.py``."""
_SHARED = ("data", "model", "experts", "evaluation", "resources", "seed")
"""Settings that the students of one group have in common; settings of the distillation are not included."""


@dataclass(frozen=True, eq=False)
class SetGroup:
    """Sets whose students have data, model and training in common, and therefore the full-data bound."""

    study: Study
    """The settings of their students."""
    encoder: str
    """Name of the students' image encoder in tables, with that of a text encoder other than the sets' own."""
    base: str
    """The common settings except the encoders, which are equal for the columns of a transfer matrix."""
    sets: Mapping[str, "DistilledSet"]
    """The sets by their folders."""
    conversion: TextConversion | None = None
    """How the sets' caption embeddings are converted for the text encoder; None if it is that of the sets."""
    order: InOrder | None = None
    """Students are trained on all sets in order; None: on each set alone."""

    @property
    def rows(self) -> dict[str, list[str]]:
        """The rows of the table with the sets that their students are trained on."""
        places = list(self.sets)
        return {self.order.name(places): places} if self.order else {place: [place] for place in places}

    def num_pairs(self, row: str) -> int:
        """Number of pairs of all sets of a row."""
        return sum(len(self.sets[place]) for place in self.rows[row])

    @property
    def measured_on(self) -> Conditions:
        """Conditions of the measurement; recalls are comparable if they are equal."""
        from rayvldd.data.array_cache import fingerprint
        from rayvldd.reports.measured_on import measured_on

        words = measured_on(self.study.model_dump(mode="json"))
        return Conditions(measured_on=words, trained_with=self.encoder, base=fingerprint(self.base))

    @property
    def made_with(self) -> dict[str, str]:
        """The image encoder that the sets of each row were distilled with."""
        encoders = {place: _image_encoder_of(distilled) for place, distilled in self.sets.items()}
        return self._joined(encoders)

    def changed(self, place: str) -> dict[str, JsonValue]:
        """Settings of data, model and students that differ from those in the card of a set, without encoders."""
        return changed_from(self.sets[place].origin.study, settings_of_students(self.study))

    @property
    def own_column(self) -> dict[str, str]:
        """The column of a transfer matrix with the encoders that the sets of each row were distilled with."""
        if self.conversion is None:
            return self.made_with
        own = {
            place: f"{_image_encoder_of(made)}, {words_of_text_encoder(object_at(made.origin.study, 'model'))}"
            for place, made in self.sets.items()
        }
        return self._joined(own)

    def _joined(self, words: Mapping[str, str]) -> dict[str, str]:
        """Words about each row from those about each set, without repeats."""
        return {row: "; ".join(dict.fromkeys(words[place] for place in places)) for row, places in self.rows.items()}

    def rates(self, place: str, instead: tuple[float, float] | None = None) -> tuple[float, float]:
        """Learning rates of students on a set, of image and text side.

        Args:
            place: Of the set.
            instead: Rates in place of the learned step sizes; those of later sets in order are scaled in turn.
        """
        image, text = instead or (self.sets[place].lr_student_image, self.sets[place].lr_student_text)
        scale = self.order.later_rate if self.order and place != next(iter(self.sets)) else 1.0
        return scale * image, scale * text

    def words_of_rates(self, instead: tuple[float, float] | None = None) -> str:
        """The sets in order with their pairs and learning rates, for a line below the table."""
        described = []
        for place, distilled in self.sets.items():
            image, text = self.rates(place, instead)
            described.append(f"{place} ({len(distilled)} pairs, rates {image:.4g} and {text:.4g})")
        return ", then ".join(described)


@dataclass(frozen=True)
class GroupScores:
    """Scores of the students of a group, by set or baseline: the rows of its table."""

    ranks: Mapping[str, Sequence["RetrievalRanks"]]
    coresets: Mapping[str, "Chosen"]
    """Names of the rows of real pairs."""
    fingerprints: Mapping[str, str]
    """Fingerprints of data and encoders."""
    caption_image: "Int[np.ndarray, ' caption']"
    """Image that each caption of the split belongs to."""
    recipe: "ChosenRecipe | None" = None
    """The recipe of the models of all pairs; None if there are none."""
    further: Sequence["FurtherScores"] = ()
    """Scores on other inputs than the split."""
    conversions: Mapping[str, str] = field(default_factory=dict)
    """How the caption embeddings of each set were converted for another text encoder."""

    @property
    def recalls(self) -> dict[str, list["RetrievalMetrics"]]:
        """The recalls of each student."""
        return {name: [found.recalls() for found in of_row] for name, of_row in self.ranks.items()}


def words_of_text_encoder(model: Mapping[str, JsonValue]) -> str:
    """Name of a text encoder in tables: ``POOLING:NAME`` as on the command line, with the last part of its path."""
    pooling, name = text_at(model, "text_encoder", "pooling"), text_at(model, "text_encoder", "name")
    if pooling == "hashed_ngrams":
        return f"{pooling}:{int(number_at(model, 'text_encoder', 'width'))}"
    return f"{pooling}:{Path(name).name}"


def _image_encoder_of(distilled: "DistilledSet") -> str:
    """Name of the image encoder that a set was distilled with."""
    return text_at(distilled.origin.study, "model", "image_encoder", "name")


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
    text_encoders: Mapping[str, TextEncoderSettings] | None = None,
    conversion: TextConversion = "auto",
    order: InOrder | None = None,
) -> list[SetGroup]:
    """Group the sets, once for every pair of encoders, and check all models and data before any work.

    Args:
        sets: The sets by their folders.
        encoders: Encoders for the students; default: each set's own encoder. A name that is equal to that of the
            encoder of one of the sets refers to that encoder, with its weights and other settings.
        overrides: ``KEY=VALUE`` texts that override settings of the cards.
        check: Called with every study and its file; raises its faults.
        next_command: Command to run once the faults are corrected.
        text_encoders: Text encoders for the students by displayed name; default: each set's own.
        conversion: How caption embeddings are converted for them.
        order: Students are trained on all sets in order, with the settings of the first one; None: on each set alone.

    Raises:
        InputError: with the faults of all cards, models and data, and of sets that cannot be trained on in order.
    """
    studies, faults = _studies_of(sets, overrides)
    if order and studies:
        faults += order.faults(sets, studies)
        studies = dict.fromkeys(studies, next(iter(studies.values())))
    known = {study.model.image_encoder.name: study.model.image_encoder for study in studies.values()}
    groups: dict[tuple[str, str], SetGroup] = {}
    for name, study in studies.items():
        own = study.model.image_encoder
        for label, settings in (encoders or {own.name: own}).items():
            bare = settings == ImageEncoderSettings(name=settings.name)
            meant = own if label == own.name and bare else known.get(label, settings) if bare else settings
            of_image = study.at({"model.image_encoder": meant.model_dump(mode="json")})  # type: ignore[dict-item]
            for of_group, shown, how in _with_text_encoders(of_image, label, text_encoders or {}, conversion):
                key = (shared_settings(of_group), shown)
                base = shared_settings(study, without=("image_encoder", *(("text_encoder",) if text_encoders else ())))
                group = groups.get(key) or SetGroup(of_group, shown, base, {}, how, order)
                groups[key] = replace(group, sets={**group.sets, name: sets[name]})
    errors: list[RayvlddError] = [InputError(faults)] if faults else []
    for group in groups.values():
        try:
            if check:
                check(group.study, f"{next(iter(group.sets))}/card.json")
        except InputError as error:
            faults += [fault for fault in error.faults if fault not in faults]
            errors.append(error)
    if faults:
        raise InputError(faults, next_command=next_after(errors, next_command))
    return list(groups.values())


def _with_text_encoders(
    study: Study, label: str, text_encoders: Mapping[str, TextEncoderSettings], conversion: TextConversion
) -> Iterator[tuple[Study, str, TextConversion | None]]:
    """The study with each text encoder, its displayed name and the conversion; itself, if there is none."""
    if not text_encoders:
        yield study, label, None
    for name, settings in text_encoders.items():
        other = study.at({"model.text_encoder": settings.model_dump(mode="json")})  # type: ignore[dict-item]
        yield other, f"{label}, {name}", conversion


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

    study, cache = group.study, open_cache(workspace.cache)
    task = load_task(study.data, study.model, cache, on_progress=display.progress)
    evaluations = further.prepared(task, split, cache, display)
    seeds = seeds_of_students(study, split, students)
    sizes = list(map(group.num_pairs, group.rows))
    left = students_left(
        study,
        task,
        workspace,
        len(seeds),
        sets=sizes * (2 if further.robustness else 1),
        coresets=sorted(set(sizes)) * len(methods),
        full_data=full_data,
    )
    choice = choose_recipe_in(study, task, workspace, display, left) if full_data else None
    jobs = {ALL_PAIRS: full_data_jobs(choice, seeds)} if choice else {}  # the longest first
    pairs, conversions = _pairs_of_sets(group, task, rates, cache, display)
    for row, places in group.rows.items():
        parts = [pairs[place] for place in places]
        jobs[row] = _students_on(parts, seeds)
        if further.robustness:
            stored = [stored_images(group.sets[place].images, task) for place in places]
            parts = [replace(part, images=images) for part, images in zip(parts, stored, strict=True)]
            jobs[stored_name(row)] = _students_on(parts, seeds)
    chosen: list[Chosen] = []
    if methods:
        chosen = choose_coresets(study, task, workspace, methods, sorted(set(sizes)), seeds, display, left)
        jobs |= {coreset.name: coreset.jobs(seeds) for coreset in chosen}
    probes = [probe for evaluation in evaluations for probe in evaluation.probes]
    own: Mapping[str, Sequence[Probe]] = {}
    if further.privacy:
        privacy, own = prepared_privacy(task, group.sets, jobs)
        evaluations.append(privacy)
    for name, specs in jobs.items():
        of_students = [[probe] for probe in own[name]] if name in own else [[]] * len(specs)
        jobs[name] = [replace(spec, probes=[*probes, *more]) for spec, more in zip(specs, of_students, strict=True)]
    scores = score_sets(study, task, workspace, jobs, split, display, command, left)
    rows = [*(name for name in jobs if name != ALL_PAIRS), *([ALL_PAIRS] * full_data)]
    found = [evaluation.scores(group.measured_on, {name: scores[name] for name in rows}) for evaluation in evaluations]
    coresets = {coreset.name: coreset for coreset in chosen}
    stored_rows = {stored_name(row) for row in group.rows}
    by_row = {name: [student.ranks for student in scores[name]] for name in rows if name not in stored_rows}
    caption_image = getattr(task, split).split.caption_image
    recipe = choice.best if choice else None
    return task, GroupScores(by_row, coresets, task.fingerprints, caption_image, recipe, found, conversions)


def _pairs_of_sets(
    group: SetGroup,
    task: "RetrievalTask",
    rates: tuple[float, float] | None,
    cache: "ArrayCache",
    display: "ProgressDisplay",
) -> tuple[dict[str, "Pairs"], dict[str, str]]:
    """The pairs of each set with the learning rates of its students, and how its caption embeddings were converted."""
    pairs: dict[str, Pairs] = {}
    conversions: dict[str, str] = {}
    for name, distilled in group.sets.items():
        for difference in _differences(name, group, task):
            display.warn(f"note: {difference}")
        converted = _converted_texts(distilled, group, task, cache, display)
        if converted is not None:
            conversions[name] = converted.words
            display.warn(f"note: {name} on {group.encoder}: {converted.words}")
        lr_image, lr_text = group.rates(name, rates)
        of_set = distilled.pairs(task, converted.texts if converted is not None else None)
        pairs[name] = replace(of_set, lr_image=lr_image, lr_text=lr_text)
    return pairs, conversions


def _students_on(parts: Sequence["Pairs"], seeds: Sequence[int]) -> list["StudentSpec"]:
    """One student for each seed, trained on all parts in order."""
    from rayvldd.evaluation.students import PairsInOrder
    from rayvldd.runtime.evaluation import StudentSpec

    trained_on = parts[0] if len(parts) == 1 else PairsInOrder(parts)
    return [StudentSpec(trained_on, seed) for seed in seeds]


def shared_settings(study: Study, *, without: Sequence[str] = ()) -> str:
    """The settings that sets of one group have in common, as JSON, without some encoders of the model."""
    values = study.model_dump(mode="json", include=set(_SHARED))
    for encoder in without:
        del values["model"][encoder]
    return json.dumps(values, sort_keys=True)


def settings_of_students(study: Study) -> dict[str, JsonValue]:
    """Settings that the scores of students depend on by dotted key, without encoders and where data lies."""
    flat = flat_settings(selected(study, lambda info: not info.by_content))
    encoders = ("model.image_encoder", "model.text_encoder")
    return {
        key: value
        for key, value in flat.items()
        if key.startswith(("data.", "model.", "evaluation.")) and not key.startswith(encoders)
    }


def _converted_texts(
    distilled: "DistilledSet", group: SetGroup, task: "RetrievalTask", cache: "ArrayCache", display: "ProgressDisplay"
) -> "ConvertedTexts | None":
    """The caption embeddings of a set for another text encoder; None if it is the set's own.

    Raises:
        InputError: if embeddings of another width are to be used as they are.
        StoreError: if the text encoder of the set is not the one that made it.
    """
    import torch

    from rayvldd.distillation.text_conversion import convert_texts, resolved
    from rayvldd.models.retrieval_task import caption_embeddings
    from rayvldd.models.text_encoder import build_text_encoder

    if group.conversion is None or distilled.origin.fingerprints["text_encoder"] == task.fingerprints["text_encoder"]:
        return None
    split, new = task.train.split, torch.from_numpy(task.train.caption_embeddings.copy())
    widths = distilled.texts.shape[1], new.shape[1]
    if group.conversion == "as_is" and widths[0] != widths[1]:
        problem = f"as_is, for {widths[0]} dimensions of the set and {widths[1]} of {group.encoder}"
        raise InputError(
            [Fault("--texts", problem, "nearest or ridge")], next_command="the same command with one of them"
        )
    old = torch.empty(0, widths[0])
    if resolved(group.conversion, *widths) != "as_is":
        settings = TextEncoderSettings.model_validate(object_at(distilled.origin.study, "model", "text_encoder"))
        own = build_text_encoder(settings)
        if own.fingerprint != distilled.origin.fingerprints["text_encoder"]:
            raise StoreError(
                f"the set was made with another text encoder than that of its card (fingerprint {own.fingerprint})",
                next_command="the same command with --texts as_is, or with the encoder of the card in place",
            )
        old = torch.from_numpy(caption_embeddings(split, own, cache, display.progress).copy())
    return convert_texts(distilled.texts, group.conversion, old, new, split.captions)


def _differences(name: str, group: SetGroup, task: "RetrievalTask") -> list[str]:
    """Differences of data and encoders from those of a set; another text encoder raises an error."""
    made, now = group.sets[name].origin.fingerprints, task.fingerprints
    named = {"data": "the data"}
    if group.study.model.image_encoder.name == _image_encoder_of(group.sets[name]):
        named["image_encoder"] = "the image encoder's weights"
    return [
        f"{name}: {what} (fingerprint {now[key]}) differ from those the set was made with ({made[key]})"
        for key, what in named.items()
        if made[key] != now[key]
    ]
