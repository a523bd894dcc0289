"""Frozen text encoders: captions in, one embedding each out. They are never trained.

Wu et al. take BERT's [CLS] vector or CLIP's text projection; sentence encoders with mean pooling stand between the
two in size. ``hashed_ngrams`` has no weights at all: the offline default, and a floor to compare with.
"""

import hashlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.settings import TextEncoderSettings
from rayvldd.errors import Fault, ModelError, message_of

_BATCH = 256
"""Captions embedded at a time: 256 x 64 tokens x 768 wide in float32 is 50 MB of activations a layer."""


@runtime_checkable  # so that signatures which name it can be checked in tests
class TextEncoder(Protocol):
    """What the rest of the system needs of a text encoder."""

    width: int
    """Numbers in one embedding."""
    fingerprint: str
    """Changes when the embeddings of the same captions would."""

    def embed(self, captions: list[str]) -> Float[Tensor, "caption text_dim"]:
        """Return one float32 embedding a caption, on the CPU."""
        ...


def build_text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """Return the encoder that the settings describe.

    Raises:
        ModelError: when transformers cannot load it from the folder or hub name.
    """
    if settings.pooling == "hashed_ngrams":
        return HashedNgrams(settings.width)
    try:
        return TransformerTextEncoder(settings)
    except Exception as error:  # transformers and the hub raise whatever their own libraries raise
        fault = Fault(
            "model.text_encoder.name",
            f"transformers could not load {settings.name!r}: {message_of(error)}",
            "a local folder with config, weights and tokenizer, or a hub name (needs network)",
        )
        raise ModelError([fault], next_command="rayvldd check STUDY.yaml after mending it") from error


def faults_of_text_encoder(settings: TextEncoderSettings) -> list[Fault]:
    """What can be told to be wrong without loading the model: a path that does not exist."""
    looks_like_path = settings.name.startswith(("/", ".", "~")) or settings.name.count("/") > 1
    if settings.pooling != "hashed_ngrams" and looks_like_path and not Path(settings.name).is_dir():
        return [Fault("model.text_encoder.name", f"no such folder: {settings.name}", "a folder or a hub name")]
    return []


class HashedNgrams:
    """Counts of words, word pairs and word triples, hashed with signs to a fixed width, each caption at one length.

    Weinberger et al., "Feature Hashing for Large Scale Multitask Learning" (arXiv 0902.2206), as scikit-learn
    implements it. Pairs and triples keep some word order: "red above blue" is not "blue above red". The length is the
    square root of the width, so that numbers are as large as those of other encoders and rates mean the same.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.fingerprint = f"hashed_ngrams-{width}-1to3-rms1"

    def embed(self, captions: list[str]) -> Float[Tensor, "caption text_dim"]:
        """Return one embedding a caption; it is 0 where the caption has no word."""
        from sklearn.feature_extraction.text import HashingVectorizer  # 2 s, which a full cache does not need

        vectorizer = HashingVectorizer(n_features=self.width, ngram_range=(1, 3), norm="l2", alternate_sign=True)
        counts: Tensor = torch.from_numpy(vectorizer.transform(captions).toarray()).float()
        return counts * float(self.width**0.5)


class TransformerTextEncoder:
    """A transformers model with the pooling that the settings name."""

    def __init__(self, settings: TextEncoderSettings) -> None:
        from transformers import AutoModel, AutoTokenizer, CLIPTextModelWithProjection
        from transformers.utils import logging

        logging.disable_progress_bar()  # a bar of its own for each process that loads the model tells nobody anything

        self._pooling = settings.pooling
        self._tokenizer: Any = AutoTokenizer.from_pretrained(settings.name)
        loader: Any = CLIPTextModelWithProjection if settings.pooling == "clip" else AutoModel
        self._model: Any = loader.from_pretrained(settings.name).eval()
        config = self._model.config
        self.width: int = config.projection_dim if settings.pooling == "clip" else config.hidden_size
        digest = hashlib.sha256(f"{settings.pooling} {type(self._model).__name__}".encode())
        for name, value in self._model.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    @torch.no_grad()
    def embed(self, captions: list[str]) -> Float[Tensor, "caption text_dim"]:
        """Return one embedding a caption; captions are cut at the model's longest input."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(device)
        longest_first = sorted(range(len(captions)), key=lambda i: -len(captions[i]))  # little padding in a batch
        embeddings = torch.empty(len(captions), self.width)
        for start in range(0, len(captions), _BATCH):
            chosen = longest_first[start : start + _BATCH]
            tokens = self._tokenizer(
                [captions[i] for i in chosen],
                padding=True,
                truncation=True,
                max_length=min(self._tokenizer.model_max_length, 512),
                return_tensors="pt",
            ).to(device)
            embeddings[chosen] = self._pool(tokens).float().cpu()
        return embeddings

    def _pool(self, tokens: Any) -> Float[Tensor, "caption text_dim"]:
        output = self._model(**tokens)
        if self._pooling == "clip":
            pooled: Tensor = output.text_embeds
            return pooled
        hidden: Tensor = output.last_hidden_state
        if self._pooling == "cls":
            return hidden[:, 0]
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean: Tensor = (hidden * mask).sum(1) / mask.sum(1)
        return mean
