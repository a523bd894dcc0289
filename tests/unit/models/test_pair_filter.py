"""Training pairs whose caption does not fit: found among pairs that fit, and left out of every array alike."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.studies import TINY_STUDY
from PIL import Image
from pydantic import ValidationError

from rayvldd.config.settings import FolderData
from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.data.toy_scenes import iterate_scenes
from rayvldd.errors import DataError
from rayvldd.models.pair_filter import kept_captions, left_out_file, line_of_left_out, pair_fit
from rayvldd.models.retrieval_task import RetrievalTask, load_task


def test_shuffled_captions_fit_least() -> None:
    """300 images with two captions each, of which every tenth is that of another image."""
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 12)).astype(np.float32)
    caption_image = np.repeat(np.arange(300), 2)
    texts = features[caption_image] @ random.normal(size=(12, 20)) + random.normal(size=(600, 20))
    wrong = np.arange(0, 600, 10)
    texts[wrong] = texts[np.roll(wrong, 1)]
    fit = pair_fit(features, texts.astype(np.float32), caption_image)
    kept = kept_captions(fit, 0.1)
    assert (~kept).sum() == 60 and (~kept[wrong]).mean() > 0.9


def test_a_pair_is_judged_by_a_map_that_has_not_seen_it() -> None:
    """Of unrelated texts no pair fits, although a map of as many weights as pairs would fit them all."""
    random = np.random.default_rng(1)
    features, texts = (random.normal(size=(40, 60)).astype(np.float32) for _ in range(2))
    fit = pair_fit(features, texts, np.arange(40))
    assert abs(fit.mean()) < 0.1


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, [1, 1, 1, 1, 1]), (0.2, [1, 1, 1, 0, 1]), (0.4, [1, 1, 0, 0, 1])]
)
def test_the_least_values_are_left_out_and_of_equal_ones_the_last(share: float, expected: list[int]) -> None:
    fit = np.array([0.3, 0.1, 0.1, -0.5, 0.2], dtype=np.float32)
    assert kept_captions(fit, share).astype(int).tolist() == expected


def coloured_images(root: Path, num_train: int) -> FolderData:
    """Images of one colour each, with the captions of drawn scenes."""
    (root / "images").mkdir(parents=True)
    toy = Study.model_validate(TINY_STUDY).data.model_copy(update={"num_train": num_train, "num_val": 4, "num_test": 4})
    rows: list[dict[str, object]] = []
    for split in ("train", "val", "test"):
        for number, scene in enumerate(iterate_scenes(toy, split)):  # type: ignore[arg-type]
            name = f"{split}{number}.png"
            Image.new("RGB", (16, 16), (number % 256, 0, 0)).save(root / "images" / name)
            rows.append({"image": name, "captions": list(scene.captions), "split": split})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FolderData(source="folder", root=str(root), image_size=16)


def loaded(data: FolderData, folder: Path) -> RetrievalTask:
    return load_task(data, Study.model_validate(TINY_STUDY).model, ArrayCache(folder))


def test_pairs_are_left_out_of_all_arrays_alike(tmp_path: Path) -> None:
    data = coloured_images(tmp_path / "data", 30)
    whole = loaded(data, tmp_path / "cache")
    rest = loaded(data.model_copy(update={"drop_pairs": 0.5}), tmp_path / "cache")
    captions = len(whole.train.split.captions)
    assert len(rest.train.split.captions) == captions - round(0.5 * captions)
    assert rest.val.split.captions == whole.val.split.captions
    positions = {name: index for index, name in enumerate(whole.train.split.image_names)}
    images = [positions[name] for name in rest.train.split.image_names]
    assert images == sorted(images) and set(rest.train.split.caption_image) == set(range(len(images)))
    np.testing.assert_array_equal(rest.train.images, whole.train.images[images])
    np.testing.assert_array_equal(rest.train.split.pixels, whole.train.split.pixels[images])
    fit = pair_fit(whole.train.images, whole.train.caption_embeddings, whole.train.split.caption_image)
    kept = np.flatnonzero(kept_captions(fit, 0.5))
    assert rest.train.split.captions == [whole.train.split.captions[index] for index in kept]
    np.testing.assert_array_equal(rest.train.caption_embeddings, whole.train.caption_embeddings[kept])
    image_of = np.array(images)[rest.train.split.caption_image]
    np.testing.assert_array_equal(image_of, whole.train.split.caption_image[kept])
    assert rest.fingerprints["data"] != whole.fingerprints["data"]
    file = left_out_file(tmp_path / "cache", rest.fingerprints["data"])
    listed = [json.loads(line) for line in file.read_text().splitlines()]
    gone = np.setdiff1d(np.argsort(fit, kind="stable"), kept)
    worst_first = sorted(gone, key=lambda index: (fit[index], index))
    names, split = whole.train.split.image_names, whole.train.split
    assert [(row["image"], row["caption"]) for row in listed] == [
        (names[split.caption_image[index]], split.captions[index]) for index in worst_first
    ]
    assert [row["fit"] for row in listed] == pytest.approx(fit[worst_first].tolist(), abs=1e-4)
    line = line_of_left_out(tmp_path / "cache", rest.fingerprints["data"])
    assert line == f"data.drop_pairs left out {len(gone)} training pairs; they are listed in {file}"
    assert line_of_left_out(tmp_path / "cache", whole.fingerprints["data"]) is None
    assert loaded(data.model_copy(update={"drop_pairs": 0.5}), tmp_path / "cache").fingerprints == rest.fingerprints


def test_few_images_and_other_protocols_are_refused(tmp_path: Path) -> None:
    data = coloured_images(tmp_path / "data", 8).model_copy(update={"drop_pairs": 0.1})
    with pytest.raises(DataError, match=r"data.drop_pairs: of 8 training images; allowed: at least 20 images"):
        loaded(data, tmp_path / "cache")
    study = Study.model_validate({**TINY_STUDY, "data": data.model_dump()})
    with pytest.raises(ValidationError, match=r"drop_pairs needs model.protocol heads_only, got full_image_encoder"):
        study.at({"model.protocol": "full_image_encoder"})


def test_a_read_only_cache_has_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = coloured_images(tmp_path / "data", 30).model_copy(update={"drop_pairs": 0.5})

    def refused(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("rayvldd.models.pair_filter.write_text_whole", refused)
    task = loaded(data, tmp_path / "cache")
    assert line_of_left_out(tmp_path / "cache", task.fingerprints["data"]) is None
