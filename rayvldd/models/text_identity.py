"""What decides the embeddings of a transformers model: weights that are read, configuration, tokenizer, longest input.

Two encoders with the same identity embed the same captions alike, and what cannot reach an embedding is no part of
it: weights that the pooling does not read (which may not be in the file at all, and are then drawn in each process
anew), dropout, labels, and who saved the files with which release.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_NO_PART = frozenset(
    "_name_or_path architectures attn_implementation _attn_implementation chunk_size_feed_forward dtype "
    "finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_factor "
    "initializer_range keys_to_ignore_at_inference label2id layerdrop logit_scale_init_value "
    "output_attentions output_hidden_states prefix problem_type return_dict task_specific_params tie_word_embeddings "
    "torch_dtype transformers_version use_cache".split()
)
"""Configuration that reaches no embedding in inference."""


def weights_read(pooled: Tensor) -> set[int]:
    """The ids of all leaves that a tensor was computed from with a gradient, found without computing any."""
    found: set[int] = set()
    seen, waiting = {pooled.grad_fn}, [pooled.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        leaf = getattr(node, "variable", None)  # of the nodes that end at a leaf
        if leaf is not None:
            found.add(id(leaf))
        for following, _ in node.next_functions if node is not None else ():
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found


def weights_that_count(model: nn.Module, read: set[int], not_loaded: set[str]) -> Iterator[tuple[str, Tensor]]:
    """The named weights and buffers that belong to an encoder's identity.

    Left out are whole parts of the model that the pooling does not read, and single weights of the others that it does
    not read and that were not in the file. Experts of a mixture that a caption happens not to use stay in.

    Args:
        model: The model.
        read: The ids of the parameters that an embedding was computed from.
        not_loaded: Names of weights that were drawn at random.
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
    """16 hex digits over everything that decides an embedding.

    Args:
        model: A transformers model, in the precision that it computes in.
        weights: Those of its weights that count.
        tokenizer: What cuts captions into its input.
        pooling: How an embedding is taken from its output.
        longest: Tokens that a caption is cut at.
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


def _config_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _config_identity(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in _NO_PART and "dropout" not in name
    }


def _tokenizer_identity(tokenizer: Any) -> dict[str, Any]:
    stated = {
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "inputs": list(tokenizer.model_input_names),
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # How a batch is cut and filled up is given with each call.
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
