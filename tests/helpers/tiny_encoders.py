"""Text encoders with a few thousand weights, created in tests as folders that transformers can load."""

from pathlib import Path
from typing import Any

import torch

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a red green blue yellow square on ground with block number word photograph".split()
)
BERT = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


def make_tokenizer(*, pads: bool = True, marks: bool = True, longest: int | None = 64, **more: Any) -> Any:
    """A tokenizer of whole words, optionally with a pad token, [CLS] and [SEP], and a maximum length."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    if marks:
        around = [("[CLS]", 2), ("[SEP]", 3)]
        words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": "[SEP]", **more}
    names |= {"pad_token": "[PAD]"} if pads else {}
    names |= {"model_max_length": longest} if longest else {}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


def make_bert(kind: str = "BertModel", seed: int = 0, **changes: Any) -> Any:
    """A BERT with one layer; ``kind`` is its class."""
    import transformers

    torch.manual_seed(seed)
    return getattr(transformers, kind)(transformers.BertConfig(**{**BERT, **changes}))


def save(folder: Path, model: Any, tokenizer: Any = None) -> Path:
    """Write both to a folder."""
    model.save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return folder
