"""Seeded damage to every kind of file that the package reads, and a check that only its own errors are raised.

A mutation changes bytes, or one value of a JSON or YAML document. Whatever a loader makes of it, it must return, or
raise an error that says what is wrong; a traceback of another library, a hang or a wrong value is a failure.
"""

import json
import random
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from helpers.paths import ROOT
from helpers.sets import card_with
from rayvldd.errors import RayvlddError
from rayvldd.records.form import Record

SLOW_S = 10.0
"""A loader that takes longer than this for a small file is a failure."""

LONG = 50_000
"""A message of more characters than this is a failure."""

_WORDS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, -(2**63) - 1, 10**400, 1e308, -1e308, 1e-320, float("nan"), float("inf"),
    "", " ", "\0", "\ud800", "\u2028", "\x1b[31m", "x" * 300, "../../x", "/etc/passwd", "${HOME}", "~", "~nobody/x",
    "nan", "1e999", "9" * 5000, [], {}, [[]], [None], {"": 0}, {"a": {"a": {"a": []}}}, [1] * 50,
)  # fmt: skip
"""Values that loaders may not expect."""

_PIECES = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\r", b"\n", b"{", b"}", b"[", b"]", b'"',
    b":", b",", b"- ", b"&a ", b"*a", b"!!int x", b"!!timestamp x", b"!!python/object:os.system x", b"<<: *a", b"? ",
    b"---\n", b"%YAML 9\n", b"9" * 5000, b"[" * 3000, b"{\"a\":" * 3000, b"NaN", b"-Infinity", b"1e999", b"\t",
)  # fmt: skip
"""Pieces of text with a meaning for JSON, YAML or decoders of text."""


# --- mutations ----------------------------------------------------------------------------------------------------


def mutated(content: bytes, name: str, draw: random.Random) -> bytes:
    """The content of a file with one to three changes.

    Args:
        content: The sound content.
        name: Name of the file; its suffix decides whether values are changed.
        draw: Generator of the changes.
    """
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = _with_other_value(content, name, draw) if draw.random() < 0.6 else _with_other_bytes(content, draw)
    return content


def _with_other_bytes(content: bytes, draw: random.Random) -> bytes:
    start = draw.randint(0, len(content))
    stop = min(len(content), start + draw.choice((1, 1, 4, 30, 300)))
    match draw.randint(0, 5):
        case 0:
            return content[:start]
        case 1:
            return content[:start] + content[stop:]
        case 2:
            return content[:start] + content[start:stop] * 2 + content[stop:]
        case 3:
            return content[:start] + draw.choice(_PIECES) + content[start:]
        case 4:
            return content[:start] + draw.randbytes(stop - start) + content[stop:]
        case _:
            flipped = bytes([content[start] ^ (1 << draw.randint(0, 7))]) if start < len(content) else b"\0"
            return content[:start] + flipped + content[start + 1 :]


def _with_other_value(content: bytes, name: str, draw: random.Random) -> bytes:
    """The document with one value replaced, removed or renamed; other files have bytes changed."""
    is_yaml, lines = name.endswith((".yaml", ".yml")), name.endswith(".jsonl")
    try:
        if lines:
            rows = content.split(b"\n")
            row = draw.randrange(len(rows))
            rows[row] = json.dumps(_changed(json.loads(rows[row]), draw)).encode()
            return b"\n".join(rows)
        if is_yaml:
            documents = list(yaml.safe_load_all(content))
            number = draw.randrange(len(documents))
            documents[number] = _changed(documents[number], draw)
            return yaml.safe_dump_all(documents, allow_unicode=draw.random() < 0.5, sort_keys=False).encode()
        return json.dumps(_changed(json.loads(content), draw)).encode()
    except Exception:  # no document, or one that earlier changes have broken
        return _with_other_bytes(content, draw)


def _changed(value: Any, draw: random.Random) -> Any:
    holders = list(_holders(value))
    if not holders:
        return draw.choice(_WORDS)
    holder, key = draw.choice(holders)
    match draw.randint(0, 3):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[str(draw.choice(_WORDS))] = holder.pop(key)
        case 2:
            holder[key] = _neighbour(holder[key], draw)
        case _:
            holder[key] = draw.choice(_WORDS)
    return value


def _neighbour(value: Any, draw: random.Random) -> Any:
    """A value that resembles this one."""
    if isinstance(value, bool | None):
        return str(value)
    if isinstance(value, int | float):
        return draw.choice((-value, value * 1000, value / 3, int(value) if abs(value) < 1e300 else 0, str(value)))
    if isinstance(value, str):
        return draw.choice((value * 2, value[:-1], value.upper(), [value], {value: value}))
    return draw.choice(([value], {"a": value}, list(value)))


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document: the object or list, and its key."""
    if isinstance(value, dict):
        for key, inner in list(value.items()):
            yield value, key
            yield from _holders(inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield value, number
            yield from _holders(inner)


# --- kinds of files -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of input: sound files in a folder, and what reads them."""

    name: str
    make: Callable[[Path], list[str]]
    """Write sound files; return the names of those that are damaged, below the folder."""
    read: Callable[[Path, str], None]
    """Read the folder, or only the named file of it; may raise the package's own errors."""


@dataclass(frozen=True)
class Failure:
    """A mutation that a loader did not withstand."""

    kind: str
    seed: int
    what: str

    def __str__(self) -> str:
        return f"{self.kind}, seed {self.seed}:\n{self.what}"


def failures_of(kind: Kind, seeds: Iterator[int] | range, folder: Path) -> list[Failure]:
    """Damage the files of a kind once for each seed, and return what went wrong."""
    sound, failures = folder / f"{kind.name}_sound", []
    sound.mkdir(parents=True)
    names = kind.make(sound)
    contents = {name: (sound / name).read_bytes() for name in names}
    for name in names:
        kind.read(sound, name)  # before any damage
    worked = folder / kind.name
    shutil.copytree(sound, worked)
    for seed in seeds:
        draw = random.Random(f"{kind.name} {seed}")
        name = draw.choice(names)
        (worked / name).write_bytes(mutated(contents[name], name, draw))
        started = time.perf_counter()
        try:
            try:
                kind.read(worked, name)
            except RayvlddError as error:
                str(error).encode()  # can be printed
                assert len(str(error)) < LONG, f"a message of {len(str(error))} characters"
        except Exception:
            failures.append(Failure(kind.name, seed, f"{name}: {traceback.format_exc()}"))
        seconds = time.perf_counter() - started
        if seconds > SLOW_S:
            failures.append(Failure(kind.name, seed, f"{name}: took {seconds:.1f} s"))
        (worked / name).write_bytes(contents[name])
    return failures


def _study_files(folder: Path) -> list[str]:
    from helpers.studies import TINY_STUDY

    search = {
        "space": {
            "distillation.lr_image": {"type": "float", "low": 1.0, "high": 100.0, "log": True},
            "distillation.trajectory_matching.syn_steps": {"type": "int", "low": 1, "high": 2},
            "distillation.augmentation": {"type": "choice", "values": [[], ["color"]]},
            "experts.epochs": {"type": "choice", "values": [1, 2]},
        },
        "initial_points": [{"distillation.lr_image": 10.0}],
        "num_trials": 3,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**TINY_STUDY, "search": search}), encoding="utf-8")
    for name in ("quickstart", "flickr8k_cpu"):
        text = (ROOT / "search_spaces" / f"{name}.yaml").read_text(encoding="utf-8")
        (folder / f"{name}.yaml").write_text(re.sub(r"\$\{\w+\}", "x", text), encoding="utf-8")
    return [file.name for file in folder.iterdir()]


def _read_study(folder: Path, name: str) -> None:
    from rayvldd.config.loading import dump_study, load_study

    study = load_study(folder / name)
    dump_study(study)
    study.at(study.first_point())


def _caption_files(folder: Path) -> list[str]:
    (folder / "images").mkdir()
    rows = []
    for number, split in enumerate(("train", "train", "val", "test")):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / "images" / f"{number}.png")
        rows.append({"image": f"{number}.png", "captions": ["A dog.", "Ein Hündchen."], "split": split})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    entries = [
        {"filename": row["image"], "split": row["split"], "sentences": [{"raw": one} for one in row["captions"]]}
        for row in rows
    ]
    (folder / "karpathy.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    for split in ("train", "val", "test"):
        of_split = [{"image": row["image"], "caption": row["captions"]} for row in rows if row["split"] == split]
        (folder / f"blip_{split}.json").write_text(json.dumps(of_split), encoding="utf-8")
    table = "".join(f"{row['image']},{caption},{row['split']}\n" for row in rows for caption in row["captions"])
    (folder / "table.csv").write_text(f"image,caption,split\n{table}", encoding="utf-8")
    return ["captions.jsonl", "karpathy.json", "blip_train.json", "blip_val.json", "table.csv", "images/0.png"]


def _read_captions(folder: Path, name: str) -> None:
    from rayvldd.config.settings import BlipData, FolderData, KarpathyData
    from rayvldd.data.annotations import read_records
    from rayvldd.data.caption_tables import convert_caption_table
    from rayvldd.data.dataset import decode_into

    root = str(folder)
    settings = (
        FolderData(source="folder", root=root),
        KarpathyData(source="karpathy", root=root, annotations="karpathy.json"),
        BlipData(source="blip", root=root, annotations="blip_{split}.json", images="images"),
    )
    errors: list[RayvlddError] = []
    for one in settings:
        try:
            records = read_records(one)
            for record in records:
                "".join(record.captions).encode()
            for _ in decode_into(np.empty((len(records), 3, 16, 16), np.uint8), records, num_threads=1):
                pass
        except RayvlddError as error:
            errors.append(error)
    try:
        (folder / "converted.jsonl").unlink(missing_ok=True)
        convert_caption_table(folder / "table.csv", folder / "images", folder / "converted.jsonl")
    except RayvlddError as error:
        errors.append(error)
    if errors:
        raise errors[0]


def _set_files(folder: Path) -> list[str]:
    from rayvldd.distillation.distilled_set import NEAREST, TENSORS, DistilledSet
    from rayvldd.distillation.exports import NearestCaption

    generator = torch.Generator().manual_seed(0)
    images, texts = torch.rand(2, 3, 16, 16, generator=generator), torch.randn(2, 32, generator=generator)
    nearest: list[NearestCaption] = [
        {"pair": pair, "start": "a", "nearest": "b", "similarity": 0.5} for pair in range(2)
    ]
    DistilledSet(
        images, texts, images.clone(), texts.clone(), ["a", "b"], 0.1, 0.1, nearest_captions=nearest, card=card_with()
    ).save(folder)
    return ["card.json", TENSORS, NEAREST]


def _read_set(folder: Path, name: str) -> None:
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.library.set_groups import study_of_card

    found = DistilledSet.load(folder)
    found.describe()
    found[0]
    study_of_card(str(folder), found.card)


def _trial_files(folder: Path) -> list[str]:
    from rayvldd.records.trial import Evaluation, Trial

    trials = folder / "study" / "trials"
    for number in range(2):
        trial = Trial(f"trial_{number:03d}", number, 7, {"distillation.lr_image": 10.0}, trials / f"trial_{number:03d}")
        trial.write()
        for step in (0, 2):
            trial.add(Evaluation(step, {"val_mean_recall": 5.0 + step, "best_val_mean_recall": 5.0 + step}, 1.5))
    return ["study/trials/trial_000/trial.json", "study/trials/trial_000/evaluations.jsonl"]


def _read_trials(folder: Path, name: str) -> None:
    from rayvldd.hyperparameter_search.ledger import Ledger, read_trials

    trials, _ = read_trials(folder / "study" / "trials")
    [trial.seconds for trial in trials]
    ledger = Ledger(folder / "study" / "trials")
    ledger.states()
    ledger.best_trial  # noqa: B018


def _result_files(folder: Path) -> list[str]:
    from helpers.studies import TINY_STUDY
    from rayvldd.config.study import Study
    from rayvldd.hyperparameter_search.study_folder import StudyFolder

    recalls = {f"{side}_r{rank}": 10.0 for side in ("image_to_text", "text_to_image") for rank in (1, 5, 10)}
    test = {
        **recalls, "mean_recall": 10.0, "interval": [9.0, 11.0], "interval_over": "students", "num_sets": 1,
        "num_students": 2, "random_mean_recall": 5.0, "full_data_mean_recall": 20.0, "num_full_data_models": 1,
        "over_random": {"mean": 5.0, "interval": [1.0, 9.0]}, "share_of_full_data": 0.5,
        "sets": [{"mean_recall": 10.0, "students": [9.0, 11.0]}],
        "students": {"distilled": [9.0, 11.0], "random": [5.0, 5.0], "full_data": [20.0]},
        "recalls": {"random": {**recalls, "mean_recall": 5.0}, "full_data": {**recalls, "mean_recall": 20.0}},
    }  # fmt: skip
    best = {
        "config": {"distillation.lr_image": 10.0}, "val_mean_recall": 7.0, "search_val_mean_recall": 7.0,
        "trial_id": "trial_000", "outer_step": 2,
    }  # fmt: skip
    result = {
        "study": "tiny", "protocol": "heads_only", "num_pairs": 4, "trials": {"finished": 2, "failed": 0},
        "best": best, "finalists": [], "test": test, "test_evaluations": 1, "importance": {}, "distilled_set": "best",
        "tracking_uri": "none", "seconds": {"total": 1.0}, "format": 1,
        "seeds": {"study": 0, "sampler": 0, "best_trial": 0, "finalists": {}, "test_students": [1, 2]},
    }  # fmt: skip
    root = folder / "studies" / "tiny"
    _trial_files(root)
    (root / "study" / "trials").rename(root / "trials")
    (root / "study").rmdir()
    (root / "best").mkdir()
    _set_files(root / "best")
    StudyFolder(root).save_settings(Study.model_validate(TINY_STUDY))
    (root / "result.json").write_text(json.dumps(result))
    return [f"studies/tiny/{name}" for name in ("result.json", "study.json", *_small_files(root, test))]


def _small_files(root: Path, test: Mapping[str, Any]) -> list[str]:
    """Write the records that a study keeps beside its result."""
    from rayvldd.hyperparameter_search.transfer import EarlierTrials
    from rayvldd.records.study_choice import StudyChoice, StudyTest
    from rayvldd.records.study_notes import StudyCommands, StudySeconds, UnsentRecords
    from rayvldd.records.study_outcome import ScoresOnTest
    from rayvldd.tracking.protocol import EarlierTrial

    choice = {"trial_id": "trial_000", "point": {"distillation.lr_image": 10.0}, "outer_step": 2, "finalists": []}
    choice |= {"search_val_mean_recall": 7.0, "sets": ["best", "trial_000_1"]}
    earlier = EarlierTrial("old/trial_000", {"distillation.lr_image": "3"}, {"data": "0"}, "finished", 3.0)
    records: dict[str, Record] = {
        "commands.json": StudyCommands(commands=["rayvldd sweep tiny.yaml"]),
        "seconds.json": StudySeconds(seconds={"prepare": 1.5, "search": 20.0}),
        "choice.json": StudyChoice.model_validate(choice),
        "test.json": StudyTest(num_pairs=4, seeds=[1, 2], scores=ScoresOnTest.model_validate(test, strict=False)),
        "earlier_trials.json": EarlierTrials(name="old", trials=[earlier]),
        "unsent.json": UnsentRecords(tracking_uri="none", missing=["a picture"]),
    }
    for name, record in records.items():
        record.write(root / name)
    return list(records)


def _read_results(folder: Path, name: str) -> None:
    from helpers.studies import TINY_STUDY
    from rayvldd.config.study import Study
    from rayvldd.hyperparameter_search.study_folder import StudyFolder
    from rayvldd.hyperparameter_search.transfer import EarlierTrials
    from rayvldd.records.study_choice import StudyTest
    from rayvldd.reports.page.study_report import read_study
    from rayvldd.reports.tables import comparison_table, finalists_table, importance_line, result_table, trust_of

    root = folder / "studies" / "tiny"
    report = read_study(root)
    assert report.state, report.measured_on
    assert report.comparable
    study_folder = StudyFolder(root)
    study_folder.check_same(Study.model_validate(TINY_STUDY))
    study_folder.commands()
    study_folder.seconds()
    study_folder.chosen_sets()
    study_folder.chosen_trial()
    study_folder.unsent("none")
    StudyTest.read(study_folder.test)
    EarlierTrials.read(study_folder.earlier_trials)
    result = study_folder.result()
    if result is not None:
        trust_of(result)
        importance_line(result.importance)
        finalists_table(result)
        result_table(result)
        comparison_table([result])


def _evaluation_files(folder: Path) -> list[str]:
    recalls = {f"{side}_r{rank}": 10.0 for side in ("image_to_text", "text_to_image") for rank in (1, 5, 10)}
    row = {
        "num_students": 2, "mean": {**recalls, "mean_recall": 10.0}, "std": dict.fromkeys(recalls, 1.0),
        "interval": {"mean_recall": [9.0, 11.0]}, "share_of_full_data": 0.5, "measured_on": ["toy"],
        "trained_with": "convnet_d3", "base": "x", "image_encoder": "convnet_d3", "protocol": "heads_only",
        "fingerprints": {"data": "0"}, "num_pairs": 4,
    }  # fmt: skip
    coreset = {**row, "method": "random"}
    subject = {"name": "dog", "data": 0.5, "start": None, "kept": 0.25, "interval": [0.1, 0.6], "differs": False}
    group = {"by": "length", "group": "short", "num_captions": 4, "recall": {"best": 10.0}}
    breakdown = {key: row[key] for key in ("measured_on", "trained_with", "base")}
    breakdown |= {"recalls": [group], "subjects": {"best": [subject]}}
    common = {"format": 1, "split": "test"}
    coresets = {**common, "study": "tiny", "coresets": [coreset], "full_data": row}
    evaluation = {
        **common, "command": "rayvldd evaluate best", "sets": [{**row, "distilled_set": "best", "made_with": "x"}],
        "coresets": [coreset], "full_data": [{**row, "sets": ["best"]}], "breakdown": [breakdown],
    }  # fmt: skip
    (folder / "coresets-0.json").write_text(json.dumps(coresets), encoding="utf-8")
    (folder / "evaluation-0.json").write_text(json.dumps(evaluation), encoding="utf-8")
    return ["coresets-0.json", "evaluation-0.json"]


def _read_evaluations(folder: Path, name: str) -> None:
    from rayvldd.records.set_scores import kept_scores, read_scores

    _, _, unread = kept_scores(folder)
    "".join(unread).encode()
    read_scores([folder / "coresets-0.json"], [folder / "evaluation-0.json"])


def _layouts() -> tuple[Any, Any]:
    from rayvldd.models.parameters import ParameterLayout

    image = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    return ParameterLayout.of(image), ParameterLayout.of(torch.nn.Linear(4, 2))


def _buffer_files(folder: Path) -> list[str]:
    for name, layout, old in (("img", _layouts()[0], False), ("txt", _layouts()[1], True)):
        tensors = [torch.randn(shape) for shape in layout.shapes]
        torch.save(
            [[tensors, tensors], [tensors, tensors]], folder / f"{name}.pt", _use_new_zipfile_serialization=not old
        )
    return ["img.pt", "txt.pt"]


def _read_buffers(folder: Path, name: str) -> None:
    from rayvldd.experts.released_buffers import BufferPair, read_buffers

    image, text = _layouts()
    for expert in read_buffers([BufferPair(folder / "img.pt", folder / "txt.pt")], image, text, epochs=1):
        expert.trajectory([0, 1])


def _cluster_files(folder: Path) -> list[str]:
    for source in (ROOT / "clusters").iterdir():
        shutil.copy(source, folder)
    return sorted(file.name for file in folder.glob("*.yaml"))


def _read_clusters(folder: Path, name: str) -> None:
    from rayvldd.clusters.checking import check_cluster

    check_cluster(folder / name).described()


_ARRAY = np.arange(24, dtype=np.float32).reshape(6, 4)


def _cache_files(folder: Path) -> list[str]:
    _read_cache(folder, "")
    return [file.name for file in folder.iterdir() if file.suffix in (".npy", ".json")]


def _read_cache(folder: Path, name: str) -> None:
    from rayvldd.data.array_cache import ArrayCache

    def make(array: np.ndarray) -> None:
        array[:] = _ARRAY

    found = ArrayCache(folder).get_or_make("captions", {"of": "a test"}, _ARRAY.shape, np.float32, make)
    assert np.array_equal(found, _ARRAY), "a damaged array was read as a sound one"


@cache
def _toy_run() -> tuple[Any, Any, Any]:
    """A study of two outer steps, its task and its experts."""
    from rayvldd.testing.toy import toy_study, toy_task

    study = toy_study().at({"distillation.outer_steps": 2, "distillation.evaluate_every": 2})
    with tempfile.TemporaryDirectory() as cache_folder:
        return (study, *toy_task(study, Path(cache_folder)))


def _checkpoint_files(folder: Path) -> list[str]:
    from rayvldd.distillation.loop import distill

    list(distill(*_toy_run(), 3, folder))
    return [file.name for file in folder.iterdir() if file.is_file()]


def _read_checkpoint(folder: Path, name: str) -> None:
    """What is resumed is what was saved; everything else begins again."""
    from rayvldd.distillation.evaluations import EvaluatedRun
    from rayvldd.distillation.loop import OuterLoop

    study, task, experts = _toy_run()
    runs = [
        EvaluatedRun(study, task, OuterLoop(study, task, experts, 3), 3, place)
        for place in (folder, folder.with_name("checkpoints_sound"))
    ]
    resumed, sound = (run.resume() for run in runs)
    assert sound
    if resumed:
        loops = [run.loop.distilled_set() for run in runs]
        assert torch.equal(loops[0].images, loops[1].images), "a damaged state was resumed"
        assert runs[0].best_recall == runs[1].best_recall, "a damaged progress was resumed"


def _epoch_files(folder: Path) -> list[str]:
    from helpers.expert_sets import METRICS, RECIPE, expert
    from rayvldd.experts.store.expert_store import ExpertStore
    from rayvldd.experts.training import ExpertState
    from rayvldd.storage.folder import FolderStorage

    storage = FolderStorage(folder)
    state = ExpertState(2, expert(0).trajectory[2], METRICS, {"state": {"inc": 2**100}})
    ExpertStore(storage).keep_epoch(RECIPE, 0, state, keep={2})
    return [name for name in storage.names() if "/epochs/" in name]


def _read_epoch(folder: Path, name: str) -> None:
    from helpers.expert_sets import METRICS, RECIPE
    from rayvldd.experts.store.expert_store import ExpertStore
    from rayvldd.storage.folder import FolderStorage

    for state in ExpertStore(FolderStorage(folder)).kept_epochs(RECIPE, 0):
        assert state.metrics == METRICS and state.random_state == {"state": {"inc": 2**100}}, "damaged, and resumed"


def _expert_files(folder: Path) -> list[str]:
    from helpers.expert_sets import RECIPE, expert
    from rayvldd.experts.store.expert_store import ExpertStore
    from rayvldd.storage.folder import FolderStorage

    storage = FolderStorage(folder)
    store = ExpertStore(storage)
    for index in range(2):
        store.save(RECIPE, index, expert(index))
    return [name for name in storage.names() if f"{RECIPE.key}/" in name]


def _read_experts(folder: Path, name: str) -> None:
    from helpers.expert_sets import RECIPE
    from rayvldd.experts.store.expert_store import ExpertStore
    from rayvldd.experts.store.inspection import summaries, verify
    from rayvldd.storage.folder import FolderStorage

    store = ExpertStore(FolderStorage(folder))
    summaries(store)
    verify(store)
    for index in store.finished(RECIPE):
        trajectory = store.load(RECIPE, index)
        for epoch in trajectory.epochs:
            trajectory[epoch].image.sum()


def _record_files(folder: Path) -> list[str]:
    from rayvldd.data.prepared_arrays import note_prepared
    from rayvldd.workspace import Workspace

    note_prepared(Workspace(folder), (folder / "store").as_uri(), folder / "local")
    _write_records(folder)
    return ["cache/prepared.json", "records/study.jsonl", "records/trials/trial_000.jsonl"]


def _write_records(folder: Path) -> None:
    from helpers.studies import TINY_STUDY
    from rayvldd.config.study import Study
    from rayvldd.tracking.folder_tracker import FolderTracker
    from rayvldd.tracking.protocol import Origins

    tracker = FolderTracker(folder / "records")
    tracker.start_study(Study.model_validate(TINY_STUDY), "sweep")
    tracker.start_trial("trial_000", {"distillation.lr_image": 10.0})
    tracker.log_origins("trial_000", Origins({"data": "0"}, "a"))
    tracker.log_metrics("trial_000", {"val_mean_recall": 5.0}, 0)
    tracker.end_trial("trial_000", "finished", None, {})
    tracker.log_metrics(None, {"best_val_mean_recall": 5.0}, 1)
    tracker.end_study("finished", {"test_mean_recall": 4.0}, None)


def _read_records(folder: Path, name: str) -> None:
    from rayvldd.data.prepared_arrays import note_prepared, open_cache
    from rayvldd.workspace import Workspace

    open_cache(folder / "cache")
    note_prepared(Workspace(folder), (folder / "other").as_uri(), None)
    _write_records(folder)


def _snapshot_files(folder: Path) -> list[str]:
    from rayvldd.storage.folder import FolderStorage
    from rayvldd.storage.lease import LeaseState, machine_identity

    root = folder / "first" / "studies" / "tiny"
    for name in ("study.json", "trials/trial_000/trial.json", "trials/trial_001/checkpoint/state"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    _study_store(folder, "first").fetch(_quiet())
    _study_store(folder, "first").push()
    holder = LeaseState("an owner", machine_identity(), 1, beat=3, done=0).as_bytes()
    FolderStorage(folder / "kept").write("tiny/holder.json", holder)
    return ["kept/tiny/snapshot.json", "kept/tiny/holder.json"]


def _study_store(folder: Path, machine: str) -> Any:
    from rayvldd.hyperparameter_search.study_folder import StudyFolder
    from rayvldd.hyperparameter_search.study_store import StudyStore
    from rayvldd.storage.folder import FolderStorage

    return StudyStore(FolderStorage(folder / "kept"), StudyFolder(folder / machine / "studies" / "tiny"))


def _quiet() -> Any:
    from rich.console import Console

    from rayvldd.console import ProgressDisplay

    return ProgressDisplay(Console(quiet=True))


def _read_snapshot(folder: Path, name: str) -> None:
    """Continue the study on another machine; only its folder may be written."""
    from rayvldd.storage.folder import FolderStorage
    from rayvldd.storage.lease import LeaseHolder

    if name.endswith("holder.json"):
        lease = LeaseHolder().acquire(FolderStorage(folder / "kept"), "tiny/holder.json")
        if lease is not None:
            with lease:
                pass
        return
    before = _names_below(folder.parent)
    try:
        _study_store(folder, "second").fetch(_quiet())
    finally:
        shutil.rmtree(folder / "second", ignore_errors=True)
        outside = _names_below(folder.parent) - before
        assert not outside, f"written outside of the study: {sorted(outside)}"


def _names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("studies", _study_files, _read_study),
        Kind("captions", _caption_files, _read_captions),
        Kind("cards", _set_files, _read_set),
        Kind("trials", _trial_files, _read_trials),
        Kind("results", _result_files, _read_results),
        Kind("evaluations", _evaluation_files, _read_evaluations),
        Kind("buffers", _buffer_files, _read_buffers),
        Kind("clusters", _cluster_files, _read_clusters),
        Kind("arrays", _cache_files, _read_cache),
        Kind("experts", _expert_files, _read_experts),
        Kind("epochs", _epoch_files, _read_epoch),
        Kind("checkpoints", _checkpoint_files, _read_checkpoint),
        Kind("records", _record_files, _read_records),
        Kind("snapshots", _snapshot_files, _read_snapshot),
    )
}
