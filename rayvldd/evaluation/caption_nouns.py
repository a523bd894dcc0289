"""Detect the subjects of a caption with a list of nouns that is part of the package.

``caption_nouns.yaml`` contains the list and its limits: it is manual, English, and matched word by word without
parsing. The resulting shares compare captions with captions and do not describe the images.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import numpy as np
import yaml
from jaxtyping import Bool

_WORD = re.compile(r"[a-z]+")


@lru_cache(maxsize=1)
def nouns() -> dict[str, frozenset[str]]:
    """Return the nouns of the list, each with all its forms."""
    return {noun: frozenset([noun, *forms.split()]) for noun, forms in _file()["nouns"].items()}


@lru_cache(maxsize=1)
def genders() -> dict[str, frozenset[str]]:
    """Return ``female`` and ``male``, each with its words, including pronouns."""
    return {gender: frozenset(words.split()) for gender, words in _file()["genders"].items()}


def words_of(caption: str) -> list[str]:
    """Return the words of a caption in lower case, without digits and punctuation."""
    return _WORD.findall(caption.lower())


def word_sets(captions: Sequence[str]) -> list[frozenset[str]]:
    """Return the set of words of each caption."""
    return [frozenset(words_of(caption)) for caption in captions]


def naming(words: Sequence[frozenset[str]], forms: frozenset[str]) -> Bool[np.ndarray, " caption"]:
    """Whether each caption, given by its words, contains one of the forms."""
    return np.array([not forms.isdisjoint(of_caption) for of_caption in words], dtype=bool)


def naming_gender(words: Sequence[frozenset[str]]) -> dict[str, Bool[np.ndarray, " caption"]]:
    """Whether each caption names women or girls, men or boys, both, or neither."""
    female, male = (naming(words, genders()[gender]) for gender in ("female", "male"))
    return {
        "female only": female & ~male,
        "male only": male & ~female,
        "female and male": female & male,
        "neither": ~female & ~male,
    }


def _file() -> dict[str, dict[str, str]]:
    text = files("rayvldd.evaluation").joinpath("caption_nouns.yaml").read_text(encoding="utf-8")
    values: dict[str, dict[str, str]] = yaml.safe_load(text)
    return values
