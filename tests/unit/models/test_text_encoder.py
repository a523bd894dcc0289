"""Encoders of transformers: rejections, and the content of their fingerprints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_encoders import WORDS, make_bert, make_tokenizer, save
from safetensors.torch import load_file, save_file

from rayvldd.config.settings import TextEncoderSettings
from rayvldd.errors import ModelError
from rayvldd.models.text_encoder import TransformerTextEncoder, build_text_encoder, faults_of_embedding

CAPTIONS = ["A red square", "a green block on blue ground with a red square", "word " * 600]


def build(folder: Path, pooling: str = "mean") -> TransformerTextEncoder:
    made = build_text_encoder(TextEncoderSettings.model_validate({"pooling": pooling, "name": str(folder)}))
    assert isinstance(made, TransformerTextEncoder)
    return made


def refusal(folder: Path, pooling: str = "mean") -> str:
    with pytest.raises(ModelError) as caught:
        build(folder, pooling)
    (fault,) = caught.value.faults
    assert fault.where == "model.text_encoder.name" and fault.allowed
    return fault.problem


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "encoder", make_bert())


# --- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_weights_under_a_prefix_are_refused_with_both_names(folder: Path, pooling: str) -> None:
    file = folder / "model.safetensors"
    save_file({f"module.{name}": value for name, value in load_file(file).items()}, file, {"format": "pt"})
    problem = refusal(folder, pooling)
    assert "would be drawn at random" in problem
    assert "embeddings.LayerNorm.bias" in problem and "module.embeddings.LayerNorm.bias" in problem


def test_half_of_the_weights_missing_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "attention" not in name}
    save_file(kept, file, {"format": "pt"})
    assert "encoder.layer.0.attention.output.LayerNorm.bias" in refusal(folder)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_pooler_that_nothing_reads_need_not_be_there_and_is_no_part_of_the_fingerprint(
    tmp_path: Path, pooling: str
) -> None:
    without = save(tmp_path / "masked", make_bert("BertForMaskedLM"))
    first, second = build(without, pooling), build(without, pooling)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.embed(CAPTIONS), second.embed(CAPTIONS))
    with_pooler = save(tmp_path / "whole", first._model)
    assert build(with_pooler, pooling).fingerprint == first.fingerprint


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_embedded_in_float32(tmp_path: Path, kind: torch.dtype) -> None:
    halved = make_bert().to(kind)
    small, wide = save(tmp_path / "small", halved), save(tmp_path / "wide", halved.float())
    embedded = build(small).embed(CAPTIONS)
    assert embedded.dtype == torch.float32
    assert torch.equal(embedded, build(wide).embed(CAPTIONS))
    assert build(small).fingerprint == build(wide).fingerprint


def test_code_of_a_folder_is_never_run_and_there_is_no_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "modeling_mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    names = {"AutoConfig": "modeling_mine.MineConfig", "AutoModel": "modeling_mine.Mine"}
    edit(folder / "config.json", model_type="mine_bert", architectures=["Mine"], auto_map=names)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("prompted on the terminal"))
    assert "brings code of its own, which is never run" in refusal(folder)
    assert not (folder / "ran").exists()


# --- embedding -----------------------------------------------------------------------------------------------------


def test_a_sound_encoder_has_no_faults_and_cuts_long_captions_at_its_positions(tmp_path: Path) -> None:
    folder = save(tmp_path / "no_limit", make_bert(), make_tokenizer(longest=None))
    encoder = build(folder)
    assert faults_of_embedding(encoder, CAPTIONS) == []
    assert torch.allclose(encoder.embed(["word " * 600]), encoder.embed(["word " * 62]), atol=1e-6)


def test_positions_that_begin_behind_the_padding_are_fewer_by_it(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model = RobertaModel(RobertaConfig(vocab_size=len(WORDS), max_position_embeddings=64, pad_token_id=1, **shape))
    encoder = build(save(tmp_path / "roberta", model, make_tokenizer(longest=None)))
    assert faults_of_embedding(encoder, CAPTIONS) == []


def make_gpt2(**changes: Any) -> Any:
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    size: dict[str, Any] = {"vocab_size": len(WORDS), "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    return GPT2Model(GPT2Config(**size, bos_token_id=2, eos_token_id=3))


def test_a_tokenizer_that_cannot_pad_is_a_fault(tmp_path: Path) -> None:
    encoder = build(save(tmp_path / "gpt2", make_gpt2(), make_tokenizer(pads=False, marks=False)))
    (fault,) = faults_of_embedding(encoder, CAPTIONS)
    assert fault.where == "model.text_encoder" and "padding token" in fault.problem


def test_an_encoder_and_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    size: dict[str, Any] = {
        "vocab_size": len(WORDS),
        "d_model": 32,
        "d_ff": 32,
        "d_kv": 16,
        "num_layers": 1,
        "num_heads": 2,
    }
    problem = refusal(save(tmp_path / "t5", T5Model(T5Config(**size))))
    assert "does not embed a caption" in problem and "decoder" in problem


def test_more_words_than_the_model_has_are_a_fault_where_captions_use_them(tmp_path: Path) -> None:
    encoder = build(save(tmp_path / "small", make_bert(vocab_size=12)))
    (fault,) = faults_of_embedding(encoder, ["a red square", "a green word"])
    assert "1 captions have such, e.g. 'a green word'" in fault.problem
    assert faults_of_embedding(encoder, ["a red square", "a green square"]) == []


def test_first_token_pooling_with_padding_on_the_left_is_a_fault(tmp_path: Path) -> None:
    folder = save(tmp_path / "left", make_bert(), make_tokenizer(padding_side="left"))
    (fault,) = faults_of_embedding(build(folder, "cls"), CAPTIONS)
    assert "beside a longer one is embedded otherwise than alone" in fault.problem


def test_weights_that_are_not_finite_are_a_fault(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["embeddings.word_embeddings.weight"][5:] = float("nan")
    save_file(weights, file, {"format": "pt"})
    (fault,) = faults_of_embedding(build(folder), CAPTIONS)
    assert "not finite" in fault.problem


# --- identity ------------------------------------------------------------------------------------------------------


def _tokenizer(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        rules = json.loads((folder / "tokenizer.json").read_text())
        change(rules)
        (folder / "tokenizer.json").write_text(json.dumps(rules))

    return apply


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


def _options(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "tokenizer_config.json", **changes)


def _one_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][5, 0] += 1e-3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


REACHES = {
    "cased": _tokenizer(lambda rules: rules.update(normalizer=None)),
    "another split": _tokenizer(lambda rules: rules.update(pre_tokenizer={"type": "WhitespaceSplit"})),
    "no marks": _tokenizer(lambda rules: rules.update(post_processor=None)),
    "swapped words": _tokenizer(lambda rules: rules["model"]["vocab"].update(red=7, green=6)),
    "activation": _config(hidden_act="relu"),
    "heads": _config(num_attention_heads=4),
    "epsilon": _config(layer_norm_eps=1e-3),
    "longest input": _options(model_max_length=4),
    "padding side": _options(padding_side="left"),
    "weight": _one_weight,
}
DOES_NOT_REACH = {
    "nothing": lambda folder: None,
    "dropout": _config(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3, classifier_dropout=0.1),
    "labels": _config(id2label={"0": "cat"}, label2id={"cat": 0}),
    "release": _config(transformers_version="4.0.0"),
    "architecture it was saved from": _config(architectures=["BertForMaskedLM"]),
    "cutting and padding of the saved file": _tokenizer(
        lambda rules: rules.update(
            truncation={"direction": "Right", "max_length": 7, "strategy": "LongestFirst", "stride": 0}
        )
    ),
    "a longest input beyond the positions": _options(model_max_length=10**30),
    "readme": lambda folder: (folder / "README.md").write_text("hello"),
}


@pytest.mark.parametrize("name", REACHES)
def test_changes_of_embeddings_change_the_fingerprint(folder: Path, name: str) -> None:
    before = build(folder)
    REACHES[name](folder)
    assert build(folder).fingerprint != before.fingerprint


@pytest.mark.parametrize("name", DOES_NOT_REACH)
def test_changes_without_effect_on_embeddings_keep_the_fingerprint(folder: Path, name: str) -> None:
    before = build(folder)
    DOES_NOT_REACH[name](folder)
    after = build(folder)
    assert after.fingerprint == before.fingerprint
    assert torch.equal(after.embed(CAPTIONS), before.embed(CAPTIONS))


def test_the_fingerprint_holds_the_pooling_but_not_the_folder(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    cls, mean = build(moved, "cls"), build(moved, "mean")
    assert cls.fingerprint != mean.fingerprint
    moved.rename(folder)
    assert build(folder, "mean").fingerprint == mean.fingerprint


def test_home_folder_is_understood(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert build(Path("~") / folder.name).fingerprint == build(folder).fingerprint
