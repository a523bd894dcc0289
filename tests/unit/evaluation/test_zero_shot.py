"""Zero-shot accuracy against a loop over images, and of a student that has learned the classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tasks import StudyTask, load
from PIL import Image

from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.data.class_images import ClassImages, read_class_images
from rayvldd.evaluation.students import Pairs, train_student
from rayvldd.evaluation.zero_shot import chance, zero_shot_probe
from rayvldd.models.text_encoder import build_text_encoder

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "yellow": (255, 255, 0),
    "grey": (128, 128, 128),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ClassImages:
    folder = tmp_path_factory.mktemp("colours")
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(2):
            Image.new("RGB", (16, 16), colour).save(folder / name / f"{number}.png")
    return read_class_images(folder)


@pytest.fixture
def task(tiny_study: Study, tiny_cache: Path) -> StudyTask:
    return load(tiny_study, tiny_cache)


def test_the_accuracy_is_that_of_a_loop(task: StudyTask, images: ClassImages, tmp_path: Path) -> None:
    probe = zero_shot_probe(task, images, "the {class} one", ArrayCache(tmp_path))
    student = task.model.initial_parameters(1)
    encoder = build_text_encoder(task.model.settings.text_encoder)
    texts = encoder.embed([f"the {name} one" for name in images.classes])
    hits = dict.fromkeys((1, 5), 0)
    with torch.no_grad():
        for index, label in enumerate(images.labels):
            pixels = np.asarray(images.opened(index).convert("RGB")).transpose(2, 0, 1)[None]
            features = task.model.frozen_part(task.model.normalise(torch.tensor(pixels).float() / 255))
            image = task.model.embed_images(features, student.image)[0]
            scores = [float(image @ task.model.embed_texts(text[None], student.text)[0]) for text in texts]
            place = sorted(scores, reverse=True).index(scores[label])
            hits = {k: count + (place < k) for k, count in hits.items()}
    expected = {f"zero_shot_top{k}": 100 * count / len(images.names) for k, count in hits.items()}
    assert probe(task, student) == pytest.approx(expected)


def test_a_student_of_the_classes_knows_them(task: StudyTask, images: ClassImages, tmp_path: Path) -> None:
    probe = zero_shot_probe(task, images, "A photo of a {class}", ArrayCache(tmp_path))
    first = np.arange(0, len(images.names), 2)
    pixels = torch.tensor(np.asarray(images.pixels(16, ArrayCache(tmp_path))[first])).float() / 255
    pairs = Pairs(task.model.normalise(pixels), torch.tensor(probe.inputs.caption_embeddings), 0.1, 0.1)
    settings = task.study.evaluation.model_copy(update={"epochs": 300})
    with torch.no_grad():
        frozen = task.model.frozen_part(pairs.images)
    student = train_student(task, pairs, frozen, settings, seed=0)
    assert probe(task, student)["zero_shot_top1"] == 100


def test_chance_is_one_of_the_classes_and_five_say_nothing_of_five() -> None:
    assert chance(20) == {"zero_shot_top1": 5.0, "zero_shot_top5": 25.0}
    assert chance(4) == {"zero_shot_top1": 25.0}
