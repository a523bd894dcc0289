"""Identity of a transformers text encoder: weights that are used, configuration, tokenizer, longest input.

Encoders with the same identity give the same embeddings. Everything that cannot affect an embedding is excluded:
weights that the pooling does not use (if they are not in the file, each process initialises them at random), dropout,
labels, and the release that saved the files.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayvldd.records.json_values import JsonValue

_NO_PART = frozenset(
    "_name_or_path architectures attn_implementation _attn_implementation chunk_size_feed_forward dtype "
    "finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_factor "
    "initializer_range keys_to_ignore_at_inference label2id layerdrop logit_scale_init_value "
    "output_attentions output_hidden_states prefix problem_type return_dict task_specific_params tie_word_embeddings "
    "torch_dtype transformers_version use_cache".split()
)
"""Configuration that does not affect embeddings in inference."""


def weights_read(pooled: Tensor) -> set[int]:
    """The ids of all leaves of a tensor's autograd graph, found without computing gradients."""
    found: set[int] = set()
    seen, waiting = {pooled.grad_fn}, [pooled.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        leaf = getattr(node, "variable", None)  # only nodes of leaves have it
        if leaf is not None:
            found.add(id(leaf))
        for following, _ in node.next_functions if node is not None else ():
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found


def weights_that_count(model: nn.Module, read: set[int], not_loaded: set[str]) -> Iterator[tuple[str, Tensor]]:
    """The named weights and buffers that belong to an encoder's identity.

    Excluded are whole parts of the model that the pooling does not use, and single unused weights that were not in the
    file. Experts of a mixture that a particular caption does not use are included.

    Args:
        model: The model.
        read: The ids of the parameters that an embedding was computed from.
        not_loaded: Names of weights that were initialised at random.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    parts = {name.partition(".")[0] for name, value in parameters.items() if id(value) in read}
    for name, value in model.state_dict().items():
        parameter = parameters.get(name)
        unread_part = parameter is not None and name.partition(".")[0] not in parts
        drawn = parameter is not None and name in not_loaded and id(parameter) not in read
        if not unread_part and not drawn:
            yield name, value


def text_identity(
    model: nn.Module, weights: Iterator[tuple[str, Tensor]], tokenizer: Any, pooling: str, longest: int
) -> str:
    """Hash of everything that determines an embedding, 16 hex digits.

    Args:
        model: A transformers model, in the precision of its computation.
        weights: The weights that belong to the identity.
        tokenizer: Its tokenizer.
        pooling: Pooling of its outputs.
        longest: Maximum number of tokens of a caption.
    """
    stated = {
        "model": type(model).__name__,
        "pooling": pooling,
        "longest": longest,
        "config": _config_identity(model.config.to_diff_dict()),  # type: ignore[union-attr, operator]
        "tokenizer": _tokenizer_identity(tokenizer),
    }
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode())
    for name, value in weights:
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _config_identity(config: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {
        name: _config_identity(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in _NO_PART and "dropout" not in name
    }


def _tokenizer_identity(tokenizer: Any) -> dict[str, JsonValue]:
    stated = {
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "inputs": list(tokenizer.model_input_names),
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # Truncation and padding are set in each call.
        return {
            **stated,
            "rules": {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")},
        }
    file = getattr(tokenizer, "vocab_file", None)
    return {
        **stated,
        "kind": type(tokenizer).__name__,
        "words": tokenizer.get_vocab(),
        "file": hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else None,
        "options": {name: str(value) for name, value in tokenizer.init_kwargs.items() if isinstance(value, bool)},
    }
