"""Buffers of the released code: read without executing their content, checked against the model, used unchanged."""

import pickle
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.cli import last_object, run
from helpers.studies import TINY_STUDY
from torch import Tensor

from rayvldd.cli.invocation import EXIT_USER_ERROR
from rayvldd.config.study import Study
from rayvldd.errors import InputError, StoreError
from rayvldd.experts.get_or_make import ExpertRequest, missing_of
from rayvldd.experts.recipe import ExpertRecipe, expert_training
from rayvldd.experts.released_buffers import BufferPair, digest_of_buffers, read_buffers
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.store.inspection import verify
from rayvldd.models.parameters import ParameterLayout
from rayvldd.storage.folder import FolderStorage

IMAGE = ParameterLayout(("head.weight", "head.bias"), ((3, 2), (3,)))
TEXT = ParameterLayout(("head.weight",), ((2, 4),))
EPOCHS = 2

Buffer = list[list[list[Tensor]]]
Side = Callable[[Buffer], Any]


def buffer_of(layout: ParameterLayout, num_experts: int = 2, seed: int = 0, epochs: int = EPOCHS) -> Buffer:
    """What ``buffer.py`` appends: for each expert its parameters at the start and after every epoch."""
    generator = torch.Generator().manual_seed(seed)
    shapes = layout.shapes
    return [
        [[torch.randn(shape, generator=generator) * 0.1 for shape in shapes] for _ in range(epochs + 1)]
        for _ in range(num_experts)
    ]


def as_it_is(buffer: Buffer) -> Buffer:
    return buffer


def written(folder: Path, image: Side = as_it_is, text: Side = as_it_is, number: int = 0) -> BufferPair:
    """A pair of files as the released code names them, after a change to either side."""
    folder.mkdir(exist_ok=True)
    pair = BufferPair(folder / f"img_replay_buffer_{number}.pt", folder / f"txt_replay_buffer_{number}.pt")
    torch.save(image(buffer_of(IMAGE, seed=2 * number)), pair.image)
    torch.save(text(buffer_of(TEXT, seed=2 * number + 1)), pair.text)
    return pair


def test_experts_of_all_pairs_in_order(tmp_path: Path) -> None:
    pairs = [written(tmp_path, number=number) for number in range(2)]
    experts = read_buffers(pairs, IMAGE, TEXT, EPOCHS)
    assert len(experts) == 4
    trajectory = experts[3].trajectory([0, 2])
    assert trajectory.epochs == [0, 2]
    weight, bias = buffer_of(IMAGE, seed=2)[1][2]
    torch.testing.assert_close(IMAGE.unflatten(trajectory[2].image), {"head.weight": weight, "head.bias": bias})
    assert torch.equal(trajectory[0].text, buffer_of(TEXT, seed=3)[1][0][0].flatten())
    assert experts[3].origin == "img_replay_buffer_1.pt and txt_replay_buffer_1.pt, number 1"


def test_other_ways_in_which_such_files_were_written(tmp_path: Path) -> None:
    """Parameters instead of tensors, half precision, tuples, and the file format before torch 1.6."""
    pair = written(tmp_path)
    image = tuple([[torch.nn.Parameter(p) for p in epoch] for epoch in expert] for expert in buffer_of(IMAGE))
    text = [[[p.half() for p in epoch] for epoch in expert] for expert in buffer_of(TEXT)]
    torch.save(image, pair.image, _use_new_zipfile_serialization=False)
    torch.save(text, pair.text)
    trajectory = read_buffers([pair], IMAGE, TEXT, EPOCHS)[0].trajectory([1])
    assert trajectory[1].text.dtype == trajectory[1].image.dtype == torch.float32
    assert not trajectory[1].image.requires_grad
    torch.testing.assert_close(trajectory[1].text, text[0][1][0].float().flatten())


def changed(path: tuple[int, ...], change: Callable[[Any], Any]) -> Side:
    """A side with one place of the buffer changed."""

    def apply(buffer: Any) -> Any:
        place = buffer
        for index in path[:-1]:
            place = place[index]
        place[path[-1]] = change(place[path[-1]])
        return buffer

    return apply


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (
            changed((1, 2, 0), lambda tensor: tensor.T),
            r"img_\S+: expert 1, epoch 2: parameter 0 \(head.weight\) has the shape \(2, 3\); allowed: \(3, 2\)",
        ),
        (
            changed((1, 0), lambda tensors: tensors[:1]),
            r"expert 1, epoch 0: has 1 parameters; allowed: the 2 of the model of the study, 9 numbers: head.weight",
        ),
        (
            changed((0,), lambda expert: expert[:2]),
            r"expert 0: has 2 snapshots; allowed: 3: the start and experts.epochs=2",
        ),
        (
            changed((0, 1, 1), lambda tensor: tensor / 0),
            r"expert 0, epoch 1: parameter 1 \(head.bias\) has numbers that are not finite",
        ),
        (changed((0, 1, 1), lambda tensor: tensor.long()), r"parameter 1 \(head.bias\) is of torch.int64; allowed: fl"),
        (changed((0, 1, 1), lambda _: "x"), r"img_\S+: expert 0, epoch 1, parameter 1: is a str; allowed: lists of"),
        (changed((0, 1), lambda _: {}), r"expert 0, epoch 1: is a dict"),
        (changed((1,), lambda _: []), r"expert 1: is an empty list"),
        (lambda buffer: {"experts": buffer}, r"img_\S+: holds a dict"),
        (lambda _: [], r"holds an empty list"),
        (
            lambda buffer: [[[tensor[:1] for tensor in epoch] for epoch in expert] for expert in buffer],
            r"expert 0, epoch 0: parameter 0 .*shape \(1, 2\), and so in 5 more places; allowed: \(3, 2\)",
        ),
        (lambda buffer: buffer[:1], r"txt_replay_buffer_0.pt: has 2 experts, \S+img_replay_buffer_0.pt has 1; allowed"),
    ],
)
def test_mismatches_are_named(tmp_path: Path, side: Side, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as error:
        read_buffers([written(tmp_path, image=side)], IMAGE, TEXT, EPOCHS)
    assert ("torch.save(" if "lists of" in str(error.value) else "--set model.…") in error.value.next_command


def test_faults_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    first = written(tmp_path, image=changed((0,), lambda expert: expert[:2]), text=lambda _: [])
    second = written(tmp_path, number=1, text=changed((1, 1, 0), lambda tensor: tensor[0]))
    with pytest.raises(InputError, match="3 faults found") as error:
        read_buffers([first, second], IMAGE, TEXT, EPOCHS)
    assert [Path(fault.where.partition(":")[0]).name for fault in error.value.faults] == [
        "img_replay_buffer_0.pt",
        "txt_replay_buffer_0.pt",
        "txt_replay_buffer_1.pt",
    ]


class Bomb:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_is_not_tensors_is_not_run(tmp_path: Path, writer: str) -> None:
    pair = written(tmp_path)
    struck = tmp_path / "struck"
    if writer == "torch":
        torch.save([[[Bomb(struck)]]], pair.image)
    else:
        pair.image.write_bytes(pickle.dumps([[[Bomb(struck)]]]))
    with pytest.raises(InputError, match="holds more than tensors, or is damaged, and was not read") as error:
        read_buffers([pair], IMAGE, TEXT, EPOCHS)
    assert not struck.exists()
    assert "weights_only" not in str(error.value), "torch's advice would run it"
    assert "getattr is in it" in str(error.value) or writer == "pickle"
    assert "in the code that wrote it: torch.save(" in error.value.next_command


@pytest.mark.parametrize("content", [b"", b"not a pickle", "cut off"])
def test_a_file_that_torch_did_not_write(tmp_path: Path, content: bytes | str) -> None:
    pair = written(tmp_path)
    pair.image.write_bytes(pair.image.read_bytes()[:-300] if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"img_replay_buffer_0.pt: .*allowed: lists of experts"):
        read_buffers([pair], IMAGE, TEXT, EPOCHS)


def test_the_digest_names_content_and_order(tmp_path: Path) -> None:
    first, second = (written(tmp_path / "here", number=number) for number in range(2))
    elsewhere = written(tmp_path / "there")
    assert digest_of_buffers([first]) == digest_of_buffers([elsewhere])
    digests = [digest_of_buffers(pairs) for pairs in ([first], [second], [first, second], [second, first])]
    assert len(set(digests)) == 4
    with pytest.raises(InputError, match=r"nothing.pt: cannot be read: No such file"):
        digest_of_buffers([BufferPair(tmp_path / "nothing.pt", first.text)])


def test_imported_experts_are_never_made(tmp_path: Path) -> None:
    recipe = ExpertRecipe({"experts": {"imported": "0123456789abcdef"}})
    store, training = ExpertStore(FolderStorage(tmp_path)), expert_training(Study.model_validate(TINY_STUDY))
    with pytest.raises(StoreError, match=r"2 of 2 experts imported as 0123456789abcdef are missing") as error:
        missing_of(ExpertRequest(recipe, training, (0, 1), frozenset({0})), store)
    words = shlex.split(error.value.next_command)
    assert words[:3] == ["rayvldd", "experts", "import"]


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY_STUDY, "search": {"num_trials": 1}}), encoding="utf-8")
    return file


@pytest.fixture
def released(tmp_path: Path, tiny_study: Study, tiny_cache: Path) -> BufferPair:
    """Two experts of the tiny study, in the released form."""
    from helpers.tasks import load

    from rayvldd.experts.training import train_expert

    task = load(tiny_study, tiny_cache)
    trajectories = [train_expert(task, expert_training(task.study), index)[0] for index in range(2)]
    pair = BufferPair(tmp_path / "img_replay_buffer_0.pt", tmp_path / "txt_replay_buffer_0.pt")
    for path, layout, side in (
        (pair.image, task.model.image_layout, "image"),
        (pair.text, task.model.text_layout, "text"),
    ):
        epochs = range(tiny_study.experts.epochs + 1)
        torch.save(
            [[list(layout.unflatten(getattr(known[e], side)).values()) for e in epochs] for known in trajectories], path
        )
    return pair


def import_of(study_file: Path, workspace: Path, pair: BufferPair, *more: str) -> Any:
    buffers: list[str | Path] = ["--image-buffer", pair.image, "--text-buffer", pair.text]
    return run("experts", "import", study_file, *buffers, "--workspace", workspace, "--json", *more)


@pytest.mark.timeout(600)  # it starts Ray
def test_a_distillation_uses_imported_experts(
    study_file: Path, released: BufferPair, tmp_path: Path, local_ray: None
) -> None:
    workspace = tmp_path / "workspace"
    result = import_of(study_file, workspace, released)
    assert result.exit_code == 0, result.output
    summary = last_object(result)
    assert (summary["num_experts"], summary["made"]) == (2, 2)
    assert last_object(import_of(study_file, workspace, released))["made"] == 0

    words = shlex.split(summary["next_command"])
    assert words[:3] == ["rayvldd", "sweep", str(study_file)]
    taken = [word for word in words[3:] if word.startswith("experts.")]
    assert taken == [f"experts.imported={summary['imported']}", "experts.num_experts=2"]
    settings = [word for setting in (*taken, "distillation.outer_steps=2") for word in ("--set", setting)]
    distilled = run("distill", study_file, "--workspace", workspace, "--out", tmp_path / "set", "--json", *settings)
    assert distilled.exit_code == 0, distilled.output
    assert "outer step     2" in distilled.stderr
    store = ExpertStore(FolderStorage(workspace / "experts"))
    assert [key for key, _ in store.sets()] == [summary["key"]], "no experts of our own were made"
    assert verify(store) == []

    shown = run("experts", "show", summary["key"], "--workspace", workspace).output
    assert "not known" in shown and "img_replay_buffer_0.pt and" in shown
    there = run("experts", study_file, "--workspace", workspace, *settings[:-2])
    assert "val mean recall unknown" in there.output
    more = run("experts", study_file, "--workspace", workspace, *settings[:2], "--num-experts", "3")
    assert more.exit_code == EXIT_USER_ERROR
    assert "Next: the same command with --set experts.num_experts=2" in more.stderr


def test_dry_run_and_faults_leave_nothing(study_file: Path, released: BufferPair, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    tried = import_of(study_file, workspace, released, "--dry-run")
    assert tried.exit_code == 0, tried.output
    other_model = import_of(study_file, workspace, released, "--set", "model.width=8")
    assert other_model.exit_code == EXIT_USER_ERROR
    assert "has the shape (16, " in other_model.stderr and "allowed: (8, " in other_model.stderr
    longer = import_of(study_file, workspace, released, "--set", "experts.epochs=3")
    assert "has 3 snapshots, and so in 1 more places; allowed: 4" in longer.stderr
    assert not (workspace / "experts").exists()


def test_files_without_a_partner(study_file: Path, tmp_path: Path) -> None:
    buffers: list[str | Path] = ["--image-buffer", "a.pt", "--image-buffer", "b.pt", "--text-buffer", "c.pt"]
    result = run("experts", "import", study_file, *buffers, "--workspace", tmp_path / "workspace")
    assert result.exit_code == EXIT_USER_ERROR
    assert "--text-buffer: given 1 times, --image-buffer 2 times" in result.stderr


def test_a_study_with_several_sets_is_rejected_with_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "several.yaml"
    space = {"experts.epochs": {"type": "int", "low": 2, "high": 3}}
    file.write_text(yaml.safe_dump({**TINY_STUDY, "search": {"num_trials": 1, "space": space}}), encoding="utf-8")
    buffers: list[str | Path] = ["--image-buffer", "a.pt", "--text-buffer", "c.pt"]
    result = run("experts", "import", file, *buffers, "--workspace", tmp_path / "workspace")
    assert result.exit_code == EXIT_USER_ERROR
    assert "search.space.experts.epochs: is searched, and each value needs its own experts" in result.stderr
    assert "Next: the same command with --set experts.epochs=VALUE" in result.stderr
