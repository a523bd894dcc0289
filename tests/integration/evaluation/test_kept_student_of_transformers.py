"""A kept student whose captions are embedded by a transformer, read from a folder as a hub has it."""

from pathlib import Path

import pytest
import torch
from helpers.tasks import load
from helpers.tiny_encoders import make_bert, make_tokenizer, save

from rayvldd.config.study import Study
from rayvldd.errors import StoreError
from rayvldd.evaluation.kept_student import KeptStudent, save_student
from rayvldd.evaluation.scoring import embeddings
from rayvldd.evaluation.students import Pairs, train_students

CAPTIONS = ["a red square on green ground", "photograph with number", ""]
"""The encoder has random weights, so that embeddings of different captions are close to each other."""


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_it_embeds_captions_as_the_evaluation_did(
    pooling: str, tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("bert"), make_bert(), make_tokenizer())
    task = load(tiny_study, tmp_path / "cache", **{"model.text_encoder": {"pooling": pooling, "name": "bert"}})
    images, texts = (
        torch.from_numpy(task.train.split.pixels[:4] / 255).float(),
        torch.tensor(task.train.caption_embeddings[:4]),
    )
    pairs = Pairs(task.model.normalise(images), texts, lr_image=0.1, lr_text=0.1)
    (student,) = train_students(task, pairs, task.study.evaluation, [3])
    save_student(tmp_path / "student", task, student, seed=3)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the server of a model runs in a folder of its own
    kept = KeptStudent(tmp_path / "student")
    _, expected = embeddings(task, student, task.val)
    assert torch.allclose(kept.embed_captions(task.val.split.captions), expected, atol=1e-5)
    found = kept.embed_captions(CAPTIONS)
    assert torch.allclose(found.norm(dim=1), torch.ones(3)) and not torch.equal(found[0], found[1])
    save(tmp_path / "bert", make_bert(seed=1), make_tokenizer())
    with pytest.raises(StoreError, match="trained with other weights of text_encoder"):
        KeptStudent(tmp_path / "student")
