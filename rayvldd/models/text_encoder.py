"""Frozen text encoders, which map each caption to one embedding and are never trained.

Wu et al. use BERT's [CLS] vector or CLIP's text projection; sentence encoders use mean pooling. ``hashed_ngrams`` has
no weights: it is the default without downloads, and a lower baseline.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.settings import TextEncoderSettings
from rayvldd.errors import Fault, ModelError, message_of
from rayvldd.models.text_identity import text_identity, weights_read, weights_that_count
from rayvldd.storage.hub_access import hub_or_cache
from rayvldd.user_paths import is_folder, user_path

_MOST_BY_PADDING = 0.02
"""Maximum relative difference of an embedding from that in a batch with a longer caption."""
_PROBE = "a photograph"
"""Caption that is embedded when an encoder is loaded; every tokenizer can handle it."""
_MOST_TOKENS = 512
"""Maximum number of tokens of a caption; tokenizers without a limit report 10^30."""
_POSITIONS = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
"""Names of learned position embeddings in models, whose number limits the input length."""
_BATCH = 256
"""Batch size: activations of 256 captions x 64 tokens x 768 dimensions in float32 are 50 MB per layer."""


@runtime_checkable  # for runtime type checks of signatures in tests
class TextEncoder(Protocol):
    """Interface of a text encoder."""

    width: int
    """Dimension of the embeddings."""
    fingerprint: str
    """Hash of everything that determines the embeddings."""

    def embed(self, captions: list[str]) -> Float[Tensor, "caption text_dim"]:
        """Return one float32 embedding per caption, on the CPU."""
        ...


def build_text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """Return the encoder that the settings describe.

    Raises:
        ModelError: if transformers cannot load it from the folder or hub name, if weights that it reads are missing,
            or if it cannot embed captions.
    """
    if settings.pooling == "hashed_ngrams":
        return HashedNgrams(settings.width)
    try:
        return TransformerTextEncoder(settings)
    except ModelError:
        raise
    except Exception as error:  # transformers and the hub raise errors of many libraries
        problem = f"transformers could not load {settings.name!r}: {message_of(error)}"
        allowed = "a local folder with config, weights and tokenizer, or a hub name (needs network)"
        if "trust_remote_code" in str(error):
            problem = f"{settings.name!r} brings code of its own, which is never run"
            allowed = "an encoder of an architecture that the installed transformers has itself"
        raise _model_error(problem, allowed) from error


def _model_error(problem: str, allowed: str) -> ModelError:
    fault = Fault("model.text_encoder.name", problem, allowed)
    return ModelError([fault], next_command="rayvldd check STUDY.yaml, after correcting it")


def faults_of_text_encoder(settings: TextEncoderSettings) -> list[Fault]:
    """Faults that can be found without loading the model: a path that does not exist."""
    looks_like_path = settings.name.startswith(("/", ".", "~")) or settings.name.count("/") > 1
    if settings.pooling != "hashed_ngrams" and looks_like_path and not is_folder(settings.name):
        return [Fault("model.text_encoder.name", f"no such folder: {settings.name}", "a folder or a hub name")]
    return []


def faults_of_embedding(encoder: TextEncoder, captions: Sequence[str]) -> list[Fault]:
    """Faults of an encoder for the captions of the data; the shortest and the longest caption are embedded.

    Args:
        encoder: The encoder.
        captions: All captions of the data.
    """
    if not isinstance(encoder, TransformerTextEncoder) or not captions:
        return []
    where, allowed = "model.text_encoder", "a tokenizer and a model that belong together"
    unknown = encoder.unknown_tokens(list(captions))
    if unknown:
        problem = f"the tokenizer has more words than the model: {len(unknown)} captions have such, e.g. {unknown[0]!r}"
        return [Fault(where, problem, allowed)]
    ends = [max(captions, key=len), min(captions, key=len)]
    try:
        alone = torch.cat([encoder.embed([caption]) for caption in ends])
        together = encoder.embed(ends)
    except Exception as error:  # tokenizers and models raise many types of errors
        problem = f"cannot embed the longest caption ({len(ends[0])} characters) beside the shortest"
        return [Fault(where, f"{problem}: {message_of(error)}", "a tokenizer that can pad captions to one length")]
    if not alone.isfinite().all() or not together.isfinite().all():
        return [Fault(where, f"embeddings of {ends[0][:60]!r} are not finite", "weights that are finite in float32")]
    # Rounding errors are about 1e-6, and 1e-3 on a GPU. A model that attends to padding differs by a few tenths.
    off = ((alone - together).norm(dim=1) / alone.norm(dim=1).clamp_min(1e-12)).max()
    if off > _MOST_BY_PADDING:
        problem = f"a caption beside a longer one is embedded otherwise than alone, by {off:.0%} of its length"
        return [Fault(where, problem, "a model that takes an attention mask, and with pooling cls pads on the right")]
    return []


class HashedNgrams:
    """Counts of words, word pairs and word triples, hashed with signs to a fixed width and scaled to equal length.

    Weinberger et al., "Feature Hashing for Large Scale Multitask Learning" (arXiv 0902.2206), in scikit-learn's
    implementation. Pairs and triples represent some word order: "red above blue" differs from "blue above red". The
    length is the square root of the width, so that values and learning rates are of the same size as for other
    encoders.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.fingerprint = f"hashed_ngrams-{width}-1to3-rms1"

    def embed(self, captions: list[str]) -> Float[Tensor, "caption text_dim"]:
        """Return one embedding per caption; it is 0 if the caption has no word."""
        from sklearn.feature_extraction.text import HashingVectorizer  # 2 s, only if the cache is empty

        vectorizer = HashingVectorizer(n_features=self.width, ngram_range=(1, 3), norm="l2", alternate_sign=True)
        counts: Tensor = torch.from_numpy(vectorizer.transform(captions).toarray()).float()
        return counts * float(self.width**0.5)


class TransformerTextEncoder:
    """A transformers model with the pooling of the settings, always in float32."""

    def __init__(self, settings: TextEncoderSettings) -> None:
        """Load the encoder and embed one caption, to determine the width and the weights that are used.

        Raises:
            ModelError: if weights that are used are not in the file, or the model cannot embed the caption.
        """
        from transformers import AutoTokenizer

        folder = user_path(settings.name)
        source = str(folder) if is_folder(folder) else settings.name
        self._pooling = settings.pooling
        with nullcontext() if is_folder(folder) else hub_or_cache():
            # Without this option, transformers would ask on the terminal whether to run code from the folder.
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            self._model, not_loaded, unexpected = _loaded(source, settings.pooling)
        self._longest = _longest_input(self._model, self._tokenizer)
        try:
            probe = self._tokens([_PROBE])
            # A tokenizer with more tokens than the model works for captions without these; see ``unknown_tokens``.
            probe["input_ids"].clamp_(max=self._model.get_input_embeddings().num_embeddings - 1)
            pooled = self._pool(probe)
        except Exception as error:  # models for other inputs raise many types of errors
            problem = (
                f"{settings.name!r} with pooling {settings.pooling!r} does not embed a caption: {message_of(error)}"
            )
            raise _model_error(problem, "an encoder of texts that fits its tokenizer and the pooling") from error
        self.width: int = pooled.shape[1]
        read = weights_read(pooled)
        named = dict(self._model.named_parameters(remove_duplicate=False))
        lacking = sorted(name for name in not_loaded if name in named and id(named[name]) in read)
        if lacking:
            raise _model_error(
                f"{settings.name!r}: {len(lacking)} of the weights that pooling {settings.pooling!r} reads are not in "
                f"its file, and would be drawn at random: {_few(lacking)}"
                + (f"; the file has others instead: {_few(sorted(unexpected))}" if unexpected else ""),
                "a file with the weights of this architecture, under their own names",
            )
        counting = weights_that_count(self._model, read, not_loaded)
        self.fingerprint = text_identity(self._model, counting, self._tokenizer, settings.pooling, self._longest)

    @torch.no_grad()
    def embed(self, captions: list[str]) -> Float[Tensor, "caption text_dim"]:
        """Return one embedding per caption; captions are truncated to the model's longest input."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(device)
        longest_first = sorted(range(len(captions)), key=lambda i: -len(captions[i]))  # little padding in a batch
        embeddings = torch.empty(len(captions), self.width)
        for start in range(0, len(captions), _BATCH):
            chosen = longest_first[start : start + _BATCH]
            tokens = self._tokens([captions[i] for i in chosen]).to(device)
            embeddings[chosen] = self._pool(tokens).float().cpu()
        return embeddings

    def unknown_tokens(self, captions: list[str]) -> list[str]:
        """The captions with a token for which the model has no embedding, if its tokenizer has more tokens."""
        table = self._model.get_input_embeddings()
        if max(self._tokenizer.get_vocab().values(), default=0) < table.num_embeddings:
            return []
        ids = self._tokenizer(captions, truncation=True, max_length=self._longest)["input_ids"]
        return [caption for caption, of in zip(captions, ids, strict=True) if max(of) >= table.num_embeddings]

    def _tokens(self, captions: list[str]) -> Any:
        return self._tokenizer(
            captions,
            padding=len(captions) > 1,
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        )

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


def _loaded(source: str, pooling: str) -> tuple[Any, set[str], set[str]]:
    """The model in float32, the names of weights that are missing in the file, and those of unexpected weights.

    transformers only prints both on the terminal and initialises missing weights at random.
    """
    from transformers import AutoModel, CLIPTextModelWithProjection
    from transformers.utils import logging

    loader: Any = CLIPTextModelWithProjection if pooling == "clip" else AutoModel
    logging.disable_progress_bar()  # otherwise each process that loads the model shows a progress bar
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, report = loader.from_pretrained(source, trust_remote_code=False, output_loading_info=True)
    finally:
        logging.set_verbosity(before)
    return model.float().eval(), set(report["missing_keys"]), set(report["unexpected_keys"])


def _longest_input(model: Any, tokenizer: Any) -> int:
    """Maximum number of tokens of a caption: the tokenizer's limit, and at most the model's number of positions."""
    longest = min(tokenizer.model_max_length, _MOST_TOKENS)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.rpartition(".")[2] in _POSITIONS:
            # RoBERTa and similar models count positions after the padding's index, OPT from an offset.
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            longest = min(longest, module.num_embeddings - skipped - int(getattr(module, "offset", 0)))
    return int(longest)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
