"""Experts: training, content of trajectories, and identity of sets."""

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from helpers.tasks import StudyTask, load, random_trajectory
from torch import nn

from rayvldd.config.study import Study
from rayvldd.errors import DivergedError, StoreError
from rayvldd.evaluation.scoring import score
from rayvldd.experts.recipe import ExpertRecipe, expert_recipe, expert_training
from rayvldd.experts.training import ExpertState, train_epochs, train_expert
from rayvldd.experts.trajectory import Trajectory
from rayvldd.experts.trajectory_file import CheckedTensors, StoredSnapshots, tensors_to_keep, write_tensors
from rayvldd.models.image_encoder import build_image_encoder
from rayvldd.storage import tensor_files
from rayvldd.storage.tensor_source import MappedTensors

# --- training -----------------------------------------------------------------------------------------------------


def recipe_of(task: StudyTask) -> ExpertRecipe:
    return expert_recipe(task.study, task.fingerprints)


@pytest.fixture
def task(tiny_study: Study, tiny_cache: Path) -> StudyTask:
    return load(tiny_study, tiny_cache)


def test_an_expert_has_a_snapshot_and_metrics_an_epoch(task: StudyTask) -> None:
    reports = []
    trajectory, metrics = train_expert(
        task, expert_training(task.study), 0, on_epoch=lambda epoch, row: reports.append((epoch, row))
    )
    assert trajectory.num_epochs == 2
    assert [row["epoch"] for row in metrics] == [1, 2]
    assert reports == [(1, metrics[0]), (2, metrics[1])]
    for row in metrics:
        assert set(row) == {"epoch", "train_loss", "val_mean_recall", "seconds"}
        assert row["train_loss"] > 0 and row["seconds"] > 0
    assert metrics[1]["val_mean_recall"] == score(task, trajectory[2], task.val).mean_recall


def test_snapshots_are_of_different_moments(task: StudyTask) -> None:
    trajectory, _ = train_expert(task, expert_training(task.study), 0)
    for side in ("image", "text"):
        snapshots = [getattr(trajectory[epoch], side) for epoch in range(3)]
        assert len({snapshot.data_ptr() for snapshot in snapshots}) == 3
        for left, right in ((0, 1), (1, 2), (0, 2)):
            assert not torch.equal(snapshots[left], snapshots[right])


def test_study_seed_and_number_decide_an_expert(task: StudyTask, tiny_study: Study, tiny_cache: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (train_expert(task, expert_training(task.study), index)[0] for index in (0, 0, 1))
    other_task = load(tiny_study, tiny_cache, seed=8)
    of_other_seed, _ = train_expert(other_task, expert_training(other_task.study), 0)
    assert torch.equal(torch.get_rng_state(), before)
    for epoch in range(3):
        assert torch.equal(first[epoch].image, again[epoch].image) and torch.equal(first[epoch].text, again[epoch].text)
        assert not torch.equal(first[epoch].image, other[epoch].image)
        assert not torch.equal(first[epoch].image, of_other_seed[epoch].image)


def test_an_epoch_on_one_batch_is_one_step_of_plain_sgd(tiny_study: Study, tiny_cache: Path) -> None:
    rates = {"experts.lr_image": 0.05, "experts.lr_text": 0.2}
    changes = {"experts.batch_size": 200, "model.protocol": "full_image_encoder", **rates}
    task = load(tiny_study, tiny_cache, **changes)
    model = task.model
    trajectory, metrics = train_expert(task, expert_training(task.study), 0)

    model.image_part.load_state_dict(model.image_layout.unflatten(trajectory[0].image))
    model.text_part.load_state_dict(model.text_layout.unflatten(trajectory[0].text))
    captions = np.arange(200)  # all five of each image in one batch
    pixels = task.pixels(task.train, task.train.split.caption_image)
    images = nn.functional.normalize(model.image_part(pixels))
    texts = nn.functional.normalize(model.text_part(task.texts(task.train, captions)))
    scores = images @ texts.T / 0.07
    loss = (scores.logsumexp(0) + scores.logsumexp(1) - 2 * scores.diagonal()).mean() / 2
    loss.backward()
    with torch.no_grad():
        for part, rate in ((model.image_part, 0.05), (model.text_part, 0.2)):
            for parameter in part.parameters():
                assert parameter.grad is not None
                parameter.sub_(rate * parameter.grad)
    assert metrics[0]["train_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert torch.allclose(trajectory[1].image, model.image_layout.flatten(model.image_part), atol=1e-5)
    assert torch.allclose(trajectory[1].text, model.text_layout.flatten(model.text_part), atol=1e-5)


def test_training_brings_the_loss_down_and_recall_up(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache, **{"experts.epochs": 12, "experts.lr_image": 0.3, "experts.lr_text": 0.3})
    trajectory, metrics = train_expert(task, expert_training(task.study), 0)
    assert metrics[-1]["train_loss"] < 0.9 * metrics[0]["train_loss"]
    first, last = (score(task, trajectory[epoch], task.train).mean_recall for epoch in (0, 12))
    assert last > 1.3 * first


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({}, [5] * 40),
        ({"experts.captions_per_image": "one"}, [1] * 40),
        ({"experts.num_train_images": 10}, [5] * 10 + [0] * 30),
        ({"experts.num_train_images": 10, "experts.captions_per_image": "one"}, [1] * 10 + [0] * 30),
        ({"experts.num_train_images": 33, "experts.captions_per_image": "one"}, None),  # batches of 32 and 1
    ],
)
def test_an_epoch_sees_every_pair_that_the_settings_name(
    tiny_study: Study,
    tiny_cache: Path,
    changes: dict[str, Any],
    seen: list[int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = load(tiny_study, tiny_cache, **changes)
    batches: list[tuple[np.ndarray, np.ndarray]] = []
    frozen_outputs, texts = type(task).frozen_outputs, type(task).texts
    indexes: dict[str, list[np.ndarray]] = {"images": [], "captions": []}

    def remember_images(self: StudyTask, inputs: Any, index: np.ndarray) -> Any:
        indexes["images"] += [index] if inputs is task.train else []
        return frozen_outputs(self, inputs, index)

    def remember_captions(self: StudyTask, inputs: Any, index: np.ndarray) -> Any:
        indexes["captions"] += [index] if inputs is task.train else []
        return texts(self, inputs, index)

    monkeypatch.setattr(StudyTask, "frozen_outputs", remember_images)
    monkeypatch.setattr(StudyTask, "texts", remember_captions)
    train_expert(task, expert_training(task.study), 0)
    batches = list(zip(indexes["images"], indexes["captions"], strict=True))
    epochs = [batches[: len(batches) // 2], batches[len(batches) // 2 :]]
    for epoch in epochs:
        images, captions = (np.concatenate(side) for side in zip(*epoch, strict=True))
        assert task.train.split.caption_image[captions].tolist() == images.tolist()
        assert len(set(captions.tolist())) == len(captions)
        if seen is None:
            assert len(captions) == 32
        else:
            assert np.bincount(images, minlength=40).tolist() == seen
    first, second = (np.concatenate([captions for _, captions in epoch]) for epoch in epochs)
    assert first.tolist() != second.tolist()  # in an order of its own, and with captions of its own


def test_a_huge_rate_is_a_failure_that_names_it(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache, **{"experts.lr_text": 1e38})
    with pytest.raises(DivergedError, match=r"(?s)expert 0 diverged in epoch 1.*experts.lr_text=1e\+38.*Next: .*--set"):
        train_expert(task, expert_training(task.study), 0)
    assert not task.model.training


# --- going on where training was cut off ---------------------------------------------------------------------------


@pytest.mark.parametrize("cut_after", [0, 1, 2])
def test_a_resumed_expert_is_identical_to_an_uninterrupted_one(
    tiny_study: Study, tiny_cache: Path, cut_after: int
) -> None:
    task = load(tiny_study, tiny_cache, **{"experts.epochs": 3, "model.dropout": 0.2})
    states = list(train_epochs(task, expert_training(task.study), 0))
    assert [state.epoch for state in states] == [0, 1, 2, 3]
    kept = states[cut_after]
    after = ExpertState(kept.epoch, kept.parameters, kept.metrics, json.loads(json.dumps(kept.random_state)))
    for state in train_epochs(task, expert_training(task.study), 0, after):
        assert torch.equal(state.parameters.image, states[state.epoch].parameters.image)
        assert torch.equal(state.parameters.text, states[state.epoch].parameters.text)
        assert len(state.metrics) == state.epoch
    assert state.epoch == 3


# --- trajectories as files -----------------------------------------------------------------------------------------


@pytest.fixture
def trajectory(task: StudyTask) -> Trajectory:
    return random_trajectory(task.model, epochs=4)


def opened(folder: Path, trajectory: Trajectory) -> Trajectory:
    """The trajectory, from the file that it is written to."""
    path = folder / "expert.safetensors"
    tensors, _ = tensors_to_keep(trajectory, "float32")
    checksums = write_tensors(path, tensors, {"made by": "a test"})

    def refuse(why: str) -> NoReturn:
        pytest.fail(why)

    file = CheckedTensors(lambda: MappedTensors(path), checksums, refuse)
    return Trajectory(StoredSnapshots(file, None, trajectory.epochs))


def test_a_trajectory_is_read_as_it_was_written(tmp_path: Path, trajectory: Trajectory) -> None:
    read = opened(tmp_path, trajectory)
    assert read.num_epochs == 4
    for epoch in range(5):
        assert torch.equal(read[epoch].image, trajectory[epoch].image)
        assert torch.equal(read[epoch].text, trajectory[epoch].text)
    assert [found.name for found in tmp_path.iterdir()] == ["expert.safetensors"]


def test_a_segment_reads_its_two_epochs_and_nothing_else(
    tmp_path: Path, trajectory: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    tensor = MappedTensors.tensor

    def watched(self: MappedTensors, name: str) -> torch.Tensor:
        names.append(name)
        return tensor(self, name)

    read = opened(tmp_path, trajectory)
    monkeypatch.setattr(MappedTensors, "tensor", watched)
    segment = read.segment(1, 3)
    assert sorted(names) == ["image.1", "image.3", "text.1", "text.3"]
    assert torch.equal(segment.start.text, trajectory[1].text)
    assert torch.equal(segment.target.image, trajectory[3].image)


def test_tensors_are_mapped_and_not_copied(tmp_path: Path, trajectory: Trajectory) -> None:
    read = opened(tmp_path, trajectory)
    read.segment(0, 1)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists the mappings of a process")
    held = read[2].image
    assert str(tmp_path / "expert.safetensors") in maps.read_text()
    assert torch.equal(held, trajectory[2].image)


@pytest.mark.parametrize(("start", "target"), [(0, 5), (4, 5), (-1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_segment_outside_the_trajectory_is_refused(
    tmp_path: Path, trajectory: Trajectory, start: int, target: int, where: str
) -> None:
    if where == "file":
        trajectory = opened(tmp_path, trajectory)
    with pytest.raises(StoreError, match=f"from epoch {start} to {target} is outside a trajectory of 4 epochs"):
        trajectory.segment(start, target)


def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, trajectory: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", no_space)
    with pytest.raises(OSError, match="No space left"):
        opened(tmp_path, trajectory)
    assert list(tmp_path.iterdir()) == []


# --- the recipe ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"data.num_train": 41},
        {"data.seed": 1},
        {"model.protocol": "full_image_encoder"},
        {"model.image_encoder.options": {"img_size": 16, "width": 4}},
        {"model.image_encoder.mean": [0.1, 0.1, 0.1]},
        {"model.text_encoder.width": 64},
        {"model.width": 8},
        {"model.dropout": 0.1},
        {"model.temperature": 0.1},
        {"experts.epochs": 3},
        {"experts.lr_text": 0.2},
        {"experts.batch_size": 16},
        {"experts.captions_per_image": "one"},
        {"experts.storage": "float16_deltas"},
        {"experts.imported": "0123456789abcdef"},
    ],
)
def test_settings_that_determine_trajectories_make_other_experts(
    task: StudyTask, tiny_study: Study, tiny_cache: Path, changes: dict[str, Any]
) -> None:
    assert recipe_of(load(tiny_study, tiny_cache, **changes)).key != recipe_of(task).key


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"experts.num_experts": 9},
        {"experts.keep_epochs": "reached"},
        {"model.lora.rank": 2},  # the protocol is heads_only
        {"distillation.trajectory_matching.syn_steps": 3, "distillation.lr_image": 1.0},
        {"evaluation.epochs": 3},
        {"resources.cpus_per_expert": 2},
    ],
)
def test_other_settings_keep_the_experts(
    task: StudyTask, tiny_study: Study, tiny_cache: Path, changes: dict[str, Any]
) -> None:
    assert recipe_of(load(tiny_study, tiny_cache, **changes)).key == recipe_of(task).key


def test_each_rank_has_experts_of_its_own(tiny_study: Study, tiny_cache: Path) -> None:
    lora = {"model.protocol": "lora", "model.lora.targets": ["blocks.0", "blocks.4"]}
    keys = {recipe_of(load(tiny_study, tiny_cache, **lora, **{"model.lora.rank": r})).key for r in (1, 2, 2, 4)}
    assert len(keys) == 3


def test_weights_count_by_content_not_by_path(
    task: StudyTask, tiny_study: Study, tiny_cache: Path, tmp_path: Path
) -> None:
    def key_with(path: Path, seed: int) -> str:
        path.parent.mkdir(exist_ok=True)
        torch.save(build_image_encoder(tiny_study.model.image_encoder, seed).state_dict(), path)
        return recipe_of(load(tiny_study, tiny_cache, **{"model.image_encoder.weights": str(path)})).key

    here, there = key_with(tmp_path / "a" / "weights.pth", 5), key_with(tmp_path / "b" / "other.pth", 5)
    assert here == there
    assert key_with(tmp_path / "a" / "weights.pth", 6) != here  # the same path, retrained
