"""Caption embeddings for another text encoder: each way gives the answer that is known."""

from pathlib import Path

import pytest
import torch
from helpers.cli import run
from helpers.sets import card_with

from rayvldd.cli.encoder_options import read_text_encoders
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.text_conversion import convert_texts, fit_ridge, nearest_rows, resolved


def real(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_a_linear_relation_of_two_encoders_is_found() -> None:
    old, weights, offset = real(200, 6), real(6, 9, 1), real(1, 9, 2)
    fitted = fit_ridge(old, old @ weights + offset)
    texts = real(5, 6, 3)
    torch.testing.assert_close(fitted(texts), texts @ weights + offset, rtol=1e-3, atol=1e-3)
    assert fitted.held_out_cosine > 0.999
    converted = convert_texts(texts, "auto", old, old @ weights + offset, ["a"] * 200)
    torch.testing.assert_close(converted.texts, fitted(texts))
    assert converted.words == "a linear map from 200 real captions, cosine 1.00 on held-out ones"


def test_noise_gets_a_large_penalty_and_the_mean() -> None:
    """Of unrelated embeddings, the map learns little but their mean."""
    old, new = real(60, 30), real(60, 8, 1) + 5
    fitted = fit_ridge(old, new)
    least = torch.linalg.lstsq((old - old.mean(0)).double(), (new - new.mean(0)).double()).solution
    assert fitted.weights.norm() < 0.8 * least.norm()
    assert (fitted(old.mean(0, keepdim=True)) - new.mean(0)).abs().max() < 1e-4


def test_the_nearest_caption_is_embedded_by_the_other_encoder() -> None:
    old, new = real(40, 6), real(40, 9, 1)
    texts = 7 * old[[3, 3, 11]] + 0.01
    assert nearest_rows(texts, old).tolist() == [3, 3, 11]
    converted = convert_texts(texts, "nearest", old, new, ["a"] * 40)
    assert torch.equal(converted.texts, new[[3, 3, 11]])
    assert converted.words == "embeddings of the nearest real captions, 2 different ones"


def test_the_same_width_is_used_as_it_is() -> None:
    texts = real(3, 6)
    converted = convert_texts(texts, "auto", torch.empty(0, 6), real(40, 6, 1), ["a"] * 40)
    assert torch.equal(converted.texts, texts) and converted.words == "embeddings as they are"
    assert (resolved("auto", 6, 6), resolved("auto", 6, 7), resolved("nearest", 6, 6)) == ("as_is", "ridge", "nearest")


def test_text_encoders_of_the_command_line() -> None:
    found, faults = read_text_encoders(["hashed_ngrams:64", "hashed_ngrams", "cls:models/bert"], "--text-encoder")
    assert not faults
    assert {name: one.width for name, one in found.items() if one.pooling == "hashed_ngrams"} == {
        "hashed_ngrams:64": 64,
        "hashed_ngrams:384": 384,
    }
    assert found["cls:bert"].name == "models/bert" and found["cls:bert"].pooling == "cls"
    _, faults = read_text_encoders(["cls", "best:bert", "hashed_ngrams:x", "no.yaml"], "--text-encoder")
    assert len(faults) == 4 and all("allowed: POOLING:NAME" in str(fault) for fault in faults)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--texts", "nearest"), "--texts: given without --text-encoder"),
        (("--text-encoder", ","), "--text-encoder: names no encoder"),
        (("--text-encoder", "bert"), "--text-encoder: cannot use 'bert'"),
        (("--text-encoder", "hashed_ngrams", "--breakdown"), "--breakdown: given together with"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    images, texts = torch.zeros(4, 3, 16, 16), torch.zeros(4, 32)
    DistilledSet(images, texts, images.clone(), texts.clone(), ["a"] * 4, 0.1, 0.1, card_with()).save(tmp_path / "set")
    result = run("evaluate", tmp_path / "set", "--workspace", tmp_path / "workspace", *arguments)
    assert result.exit_code == 2 and message in " ".join(result.output.split())
