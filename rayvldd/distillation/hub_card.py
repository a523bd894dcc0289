"""The dataset card of a distilled set, ``README.md`` of a repository on the hub of Hugging Face.

Its first lines are the metadata that the hub reads. There is no licence in it: whoever publishes the set states one
that the images and captions of its data allow.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Protocol, runtime_checkable

from rayvldd.config.metrics import MEAN_RECALL
from rayvldd.config.settings import RATE_COURSES
from rayvldd.records.json_values import JsonValue, number_at, object_at, text_at
from rayvldd.records.set_scores import EvaluatedBound, EvaluatedSet, Interval

HUB_CARD = "README.md"
"""Name of the file."""


@runtime_checkable
class DescribedSet(Protocol):
    """What the card states of a set."""

    @property
    def start_captions(self) -> list[str]:
        """Caption of each initial pair."""
        ...

    def card_values(self) -> dict[str, JsonValue]:
        """Return the content of the set's card."""
        ...


def without_folders(values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The settings of a card for others: of a path on this machine, which may name people, the last part alone."""
    return {name: _last_part(value) for name, value in values.items()}


def _last_part(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return without_folders(value)
    if isinstance(value, list):
        return [_last_part(one) for one in value]
    is_path = isinstance(value, str) and (PurePath(value).is_absolute() or value.startswith("~/"))
    return PurePath(value).name if is_path and isinstance(value, str) else value


def hub_card(distilled: DescribedSet, evaluated: Sequence[EvaluatedSet | EvaluatedBound] = ()) -> str:
    """The text of the card.

    Args:
        distilled: The set.
        evaluated: Rows of evaluations of the set and of their bounds on test.
    """
    values = distilled.card_values()
    study = object_at(values, "study")
    name, pairs = text_at(study, "name") or "unknown study", len(distilled.start_captions)
    sections = [
        _METADATA.format(name=name, size=_size_category(pairs)),
        f"# {pairs} distilled image-caption pairs: {name}",
        _what_it_is(values, study, pairs),
        "## Recall",
        _recalls(values, evaluated),
        "## How to load",
        _LOADING,
        "## Bias and privacy",
        _bias_and_privacy(distilled.start_captions),
        "## Licence",
        "Not stated. The licence has to be one that the images and captions of the data allow.",
    ]
    return "\n\n".join(sections) + "\n"


_METADATA = """\
---
pretty_name: {name}
size_categories:
- {size}
tags:
- dataset-distillation
- image-text-retrieval
- rayvldd
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train.parquet
---"""
_LOADING = """\
```python
import rayvldd as rv

distilled = rv.DistilledSet.load("hf://USER/NAME")  # exact pixels, embeddings, learned step sizes and similarity
```

```bash
rayvldd evaluate hf://USER/NAME --set data.root=FOLDER
```

Without rayvldd: `datasets.load_dataset("USER/NAME")` has the columns `image` (PNG, 8 bits per channel), `pixels` (the
exact images, float32, on a scale from 0 to 1 with values beyond it), `caption_embedding`, `captions` (the real caption
nearest to the embedding) and `start_caption`. A model is trained on `pixels` and `caption_embedding`; the texts are for
readers."""


def _what_it_is(values: dict[str, JsonValue], study: dict[str, JsonValue], pairs: int) -> str:
    if not study:
        return f"{pairs} synthetic image-caption pairs of unknown origin."
    data, model, prints = object_at(study, "data"), object_at(study, "model"), object_at(values, "fingerprints")
    text = object_at(model, "text_encoder")
    kind = "real pairs in the form of a distilled set" if "coreset" in values else "synthetic pairs"
    source = PurePath(text_at(data, "name") or text_at(data, "annotations") or text_at(data, "root")).name
    text_name = PurePath(text_at(text, "name")).name or "no weights"
    decay = text_at(study, "evaluation", "learning_rate_decay") or "none"  # cards of earlier releases may lack it
    rows = [
        ("pairs", f"{pairs}, images of {int(number_at(data, 'image_size'))} px"),
        ("data", f"{text_at(data, 'source')} {source} (fingerprint {text_at(prints, 'data')})".replace("  ", " ")),
        ("image encoder", f"timm {text_at(model, 'image_encoder', 'name')} ({text_at(prints, 'image_encoder')})"),
        ("text encoder", f"{text_at(text, 'pooling')}, {text_name} ({text_at(prints, 'text_encoder')})"),
        ("trained part", text_at(model, "protocol")),
        ("loss of students", text_at(study, "distillation", "student_loss") or "info_nce"),
        (
            "rates of students",
            f"{number_at(values, 'lr_student_image'):.4g} (image), {number_at(values, 'lr_student_text'):.4g} (text)",
        ),
        ("course of each rate", RATE_COURSES.get(decay, decay)),
        ("epochs of students", str(int(number_at(study, "evaluation", "epochs")))),
        ("made with", f"rayvldd {text_at(values, 'rayvldd_version')}, {int(number_at(values, 'outer_step'))} steps"),
    ]
    lines = [f"| {name} | {value} |" for name, value in rows]
    introduction = (
        f"{kind[0].upper()}{kind[1:]} for training image-text retrieval in place of the data. Each pair is an image "
        "and the embedding of a caption. The settings are in `card.json`."
    )
    return "\n".join([introduction, "", "| | |", "|---|---|", *lines])


def _recalls(values: dict[str, JsonValue], evaluated: Sequence[EvaluatedSet | EvaluatedBound]) -> str:
    """A table of the evaluations on test; else the recall on validation, by which the set was chosen."""
    if not evaluated:
        found = object_at(values, "metrics").get(f"val_{MEAN_RECALL.name}")
        known = (
            f"{found:.1f} % on validation, by which the set was chosen" if isinstance(found, int | float) else "unknown"
        )
        return f"Mean of the six recalls: {known}. It was not evaluated on test in the exporting workspace."
    names = list(evaluated[0].mean)
    head = "| trained on | encoder | students | " + " | ".join(_words(name) for name in names) + " | of the bound |"
    lines = [head, "|---" * (len(names) + 4) + "|"]
    for row in evaluated:
        label = "this set" if isinstance(row, EvaluatedSet) else "all pairs (bound)"
        cells = [_with_interval(row.mean[name], row.interval.get(name)) for name in names]
        share = "" if row.share_of_full_data is None else f"{row.share_of_full_data:.0%}"
        lines.append(f"| {label} | {row.image_encoder} | {row.num_students} | {' | '.join(cells)} | {share} |")
    return "Recall on test in percent, with 95 % intervals over students.\n\n" + "\n".join(lines)


def _size_category(pairs: int) -> str:
    """The hub's word for the number of rows."""
    return "n<1K" if pairs < 1000 else "1K<n<10K"


def _words(recall: str) -> str:
    return recall.replace("_", " ")


def _with_interval(mean: float, interval: Interval) -> str:
    return f"{mean:.1f}" if interval is None else f"{mean:.1f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _bias_and_privacy(start_captions: Sequence[str]) -> str:
    real = sum(bool(caption) for caption in start_captions)
    start = (
        f"{real} of the {len(start_captions)} pairs started from real pairs. Their captions are in `card.json` and in "
        "the column `start_caption`, their images in `distilled_set.safetensors`, as they are."
        if real
        else "The pairs did not start from real captions."
    )
    return (
        f"{start} Distilled images can resemble the real ones that they started from; `rayvldd evaluate --privacy` "
        "measures it. There is no guarantee of privacy.\n\n"
        "A distilled set has the biases of its data, and can strengthen them: few pairs stand for all. "
        "`rayvldd evaluate --breakdown` compares recall by the subjects of captions."
    )
