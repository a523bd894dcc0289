"""The settings of one run, with meaning, unit and source.

They are validated at construction, immutable, printed by ``--dry-run --json`` and saved with every result. "Wu et al."
is arXiv 2308.07545; "MTT" is Cazenavette et al., arXiv 2203.11932.
"""

import math
from itertools import product
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from rayvldd.config.base import Settings
from rayvldd.config.setting import MayChange, SettingOptions, setting

_WITHOUT_INFLUENCE: SettingOptions = {
    "may_change": MayChange.ALWAYS,
    "in_point": False,
    "changes_experts": False,
    "changes_recall": False,
}
"""Of a setting that changes nothing but whether a run starts: the fingerprint of the data contains its effect."""

# --- data ---------------------------------------------------------------------------------------------------------


class ToyScenesData(Settings):
    """Generated scenes of coloured objects with several true captions each; needs no download."""

    source: Literal["toy_scenes"]
    image_size: int = setting(32, ge=16, le=512, unit="pixels", by_content=False)
    """Side of the square image, in pixels."""
    num_train: int = setting(2000, ge=2, unit="images")
    """Training images."""
    num_val: int = setting(300, ge=2, unit="images")
    """Validation images."""
    num_test: int = setting(300, ge=2, unit="images")
    """Test images."""
    seed: int = setting(0, ge=0)
    """Seed of the scenes; the study's seed does not change the data."""


class FolderData(Settings):
    """A folder with one JSON-lines file: ``{"image": ..., "captions": [...], "split": "train|val|test"}``."""

    source: Literal["folder"]
    root: str
    """Folder of the annotation file and the images."""
    annotations: str = "captions.jsonl"
    """The JSON-lines file, relative to ``root``."""
    images: str = "images"
    """Folder of the image files, relative to ``root``."""
    unreadable: Literal["refuse", "drop"] = setting("refuse", **_WITHOUT_INFLUENCE)
    """Images that cannot be decoded: ``refuse`` the dataset, or ``drop`` them, with a list of them in the cache."""
    drop_pairs: float = setting(0.0, ge=0, le=0.5, unit="share")
    """Share of the training pairs, image and caption, to leave out: those whose caption fits the image least, by a map
    that is fitted to the other pairs. For pairs from the web; under ``model.protocol: heads_only`` alone."""
    image_size: int = setting(224, ge=16, le=1024, unit="pixels", by_content=False)
    """Side of the square to which images are resized (bicubic, aspect ratio not kept, as in Wu et al.), in pixels."""


class KarpathyData(Settings):
    """A Karpathy-split JSON (``dataset_flickr8k.json``, ``dataset_flickr30k.json``, ``dataset_coco.json``)."""

    source: Literal["karpathy"]
    root: str
    """Folder of the annotation file and the images."""
    annotations: str
    """The JSON file, relative to ``root``."""
    images: str = "images"
    """Folder of the image files, relative to ``root``; COCO's ``filepath`` is appended to it."""
    restval: Literal["train", "drop"] = "train"
    """Use of COCO's ``restval`` images; usually they are added to the training split."""
    unreadable: Literal["refuse", "drop"] = setting("refuse", **_WITHOUT_INFLUENCE)
    """Images that cannot be decoded: ``refuse`` the dataset, or ``drop`` them, with a list of them in the cache."""
    drop_pairs: float = setting(0.0, ge=0, le=0.5, unit="share")
    """Share of the training pairs, image and caption, to leave out: those whose caption fits the image least, by a map
    that is fitted to the other pairs. For pairs from the web; under ``model.protocol: heads_only`` alone."""
    image_size: int = setting(224, ge=16, le=1024, unit="pixels", by_content=False)
    """Side of the square to which images are resized, in pixels."""


class BlipData(Settings):
    """BLIP-style annotation files, one per split, as read by the released code of Wu et al."""

    source: Literal["blip"]
    root: str
    """Folder of the annotation files and the images."""
    annotations: str = "flickr30k_{split}.json"
    """File name with ``{split}`` in place of train, val or test, relative to ``root``."""
    images: str = "."
    """Folder that the ``image`` paths are relative to; itself relative to ``root``."""
    unreadable: Literal["refuse", "drop"] = setting("refuse", **_WITHOUT_INFLUENCE)
    """Images that cannot be decoded: ``refuse`` the dataset, or ``drop`` them, with a list of them in the cache."""
    drop_pairs: float = setting(0.0, ge=0, le=0.5, unit="share")
    """Share of the training pairs, image and caption, to leave out: those whose caption fits the image least, by a map
    that is fitted to the other pairs. For pairs from the web; under ``model.protocol: heads_only`` alone."""
    image_size: int = setting(224, ge=16, le=1024, unit="pixels", by_content=False)
    """Side of the square to which images are resized, in pixels."""

    @model_validator(mode="after")
    def _one_file_per_split(self) -> Self:
        if "{split}" not in self.annotations:
            raise ValueError(
                f"annotations must contain {{split}} in place of the split's name, got {self.annotations!r}"
            )
        return self


class TableData(Settings):
    """A table with a row for each caption: Flickr8k's and Flickr30k's own files, CSV, or ``metadata.jsonl``."""

    source: Literal["table"]
    root: str
    """Folder of the table and the images."""
    annotations: str = "captions.csv"
    """The table, relative to ``root``: columns with commas, semicolons, bars or tabs, or JSON lines with ``file_name``
    and ``text``. A column ``split`` is read; without it the splits are drawn."""
    images: str = "images"
    """Folder of the image files, relative to ``root``."""
    held_out: float = setting(0.1, gt=0, lt=0.5, unit="share")
    """Share of the images of each of validation and test, where the table has no splits."""
    split_seed: int = setting(0, ge=0)
    """Seed of drawn splits; the study's seed does not change the data."""
    unreadable: Literal["refuse", "drop"] = setting("refuse", **_WITHOUT_INFLUENCE)
    """Images that cannot be decoded: ``refuse`` the dataset, or ``drop`` them, with a list of them in the cache."""
    drop_pairs: float = setting(0.0, ge=0, le=0.5, unit="share")
    """Share of the training pairs, image and caption, to leave out: those whose caption fits the image least, by a map
    that is fitted to the other pairs. For pairs from the web; under ``model.protocol: heads_only`` alone."""
    image_size: int = setting(224, ge=16, le=1024, unit="pixels", by_content=False)
    """Side of the square to which images are resized, in pixels."""


class CocoData(Settings):
    """COCO's own ``captions_*.json``, with the images in the folders that its archives make."""

    source: Literal["coco"]
    root: str
    """Folder of the annotation files and the images."""
    annotations: str = "annotations/captions_train2017.json"
    """Captions of the training images, relative to ``root``; a share of them is drawn for validation."""
    images: str = "train2017"
    """Folder of the training images, relative to ``root``."""
    test_annotations: str | None = "annotations/captions_val2017.json"
    """Captions of the test images, relative to ``root``: COCO has none for its own test images. ``null``: test images
    are drawn from the training images, too."""
    test_images: str = "val2017"
    """Folder of the test images, relative to ``root``."""
    held_out: float = setting(0.05, gt=0, lt=0.5, unit="share")
    """Share of the training images that is drawn for validation, and for test without ``test_annotations``."""
    split_seed: int = setting(0, ge=0)
    """Seed of drawn splits; the study's seed does not change the data."""
    unreadable: Literal["refuse", "drop"] = setting("refuse", **_WITHOUT_INFLUENCE)
    """Images that cannot be decoded: ``refuse`` the dataset, or ``drop`` them, with a list of them in the cache."""
    drop_pairs: float = setting(0.0, ge=0, le=0.5, unit="share")
    """Share of the training pairs, image and caption, to leave out: those whose caption fits the image least, by a map
    that is fitted to the other pairs. For pairs from the web; under ``model.protocol: heads_only`` alone."""
    image_size: int = setting(224, ge=16, le=1024, unit="pixels", by_content=False)
    """Side of the square to which images are resized, in pixels."""


class WebDatasetData(Settings):
    """Tar files of images and captions in WebDataset's form, as img2dataset writes them."""

    source: Literal["webdataset"]
    root: str
    """Folder of the tar files."""
    shards: str = "*.tar"
    """Names of the tar files, relative to ``root``; ``{split}`` stands for train, val and test. Without it the splits
    are drawn."""
    captions: str = "txt"
    """Extension of the member with the caption; ``json:KEY`` takes a text or a list of texts from a JSON member."""
    held_out: float = setting(0.1, gt=0, lt=0.5, unit="share")
    """Share of the images of each of validation and test, where ``shards`` has no ``{split}``."""
    split_seed: int = setting(0, ge=0)
    """Seed of drawn splits; the study's seed does not change the data."""
    unreadable: Literal["refuse", "drop"] = setting("refuse", **_WITHOUT_INFLUENCE)
    """Images that cannot be decoded: ``refuse`` the dataset, or ``drop`` them, with a list of them in the cache."""
    drop_pairs: float = setting(0.0, ge=0, le=0.5, unit="share")
    """Share of the training pairs, image and caption, to leave out: those whose caption fits the image least, by a map
    that is fitted to the other pairs. For pairs from the web; under ``model.protocol: heads_only`` alone."""
    image_size: int = setting(224, ge=16, le=1024, unit="pixels", by_content=False)
    """Side of the square to which images are resized, in pixels."""


class HuggingFaceData(Settings):
    """A data set of Hugging Face, read with the library ``datasets``."""

    source: Literal["huggingface"]
    name: str
    """A folder that ``save_to_disk`` has written, another folder that ``load_dataset`` reads, e.g. images with
    ``metadata.jsonl`` or Parquet files, or a name on the hub (needs network once)."""
    config: str | None = None
    """Configuration of the data set, if it has several."""
    revision: str | None = None
    """Commit or tag of a data set on the hub; default: the newest."""
    image: str = ""
    """Column of the images; default: the only one of the type ``Image``."""
    captions: tuple[str, ...] = ()
    """Columns of the captions, of texts or lists of texts; default: ``caption``, ``captions``, ``text``, ``sentences``
    or ``caption_0``, ``caption_1``, … ."""
    held_out: float = setting(0.1, gt=0, lt=0.5, unit="share")
    """Share of the training images that is drawn for each of validation and test, if the data set has no such split.
    Splits are those of the data set, or a column ``split``."""
    split_seed: int = setting(0, ge=0)
    """Seed of drawn splits; the study's seed does not change the data."""
    unreadable: Literal["refuse", "drop"] = setting("refuse", **_WITHOUT_INFLUENCE)
    """Images that cannot be decoded: ``refuse`` the dataset, or ``drop`` them, with a list of them in the cache."""
    drop_pairs: float = setting(0.0, ge=0, le=0.5, unit="share")
    """Share of the training pairs, image and caption, to leave out: those whose caption fits the image least, by a map
    that is fitted to the other pairs. For pairs from the web; under ``model.protocol: heads_only`` alone."""
    image_size: int = setting(224, ge=16, le=1024, unit="pixels", by_content=False)
    """Side of the square to which images are resized, in pixels."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.name.strip():
            raise ValueError("name is empty: a folder, or a name on the hub such as user/data")
        return self


FileData = FolderData | KarpathyData | BlipData | TableData | CocoData | WebDatasetData | HuggingFaceData
"""Datasets of image files."""
DataSettings = Annotated[ToyScenesData | FileData, Field(discriminator="source")]


# --- models -------------------------------------------------------------------------------------------------------


OWN_ENCODER = "convnet_d3"
"""The image encoder of this package; its weights are a file of the package."""


class ImageEncoderSettings(Settings):
    """The timm model that encodes images, and the source of its weights."""

    name: str
    """A timm model name (``timm.list_models()``), e.g. ``nfnet_l0``; or ``convnet_d3``, the small network that is
    common in dataset distillation."""
    pretrained: bool = True
    """Start from pretrained weights: from ``weights`` if given, else from timm's hub (needs network)."""
    weights: str | None = setting(None, by_content=True)
    """A local checkpoint file for this model; overrides the hub."""
    options: dict[str, JsonValue] = setting({})
    """Further arguments of ``timm.create_model``, e.g. ``{pad_type: same}``."""
    mean: tuple[float, float, float] | None = None
    """RGB mean that the weights expect, on a scale from 0 to 1; default: timm's value for the model."""
    std: tuple[float, float, float] | None = None
    """RGB standard deviation that the weights expect; default: timm's value for the model."""


class TextEncoderSettings(Settings):
    """The frozen encoder of captions, whose embeddings are distilled."""

    pooling: Literal["cls", "mean", "clip", "hashed_ngrams"]
    """``cls``: first token (BERT in Wu et al.); ``mean``: masked mean (sentence encoders); ``clip``: CLIP's text
    projection; ``hashed_ngrams``: word n-grams hashed to a fixed width, no weights and no download."""
    name: str = ""
    """Local folder or hub name for transformers, e.g. ``bert-base-uncased``; empty for ``hashed_ngrams``."""
    width: int = setting(384, ge=16, unit="dimensions")
    """Width of ``hashed_ngrams`` embeddings; other encoders report their own width."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.pooling != "hashed_ngrams" and not self.name:
            raise ValueError(f"pooling {self.pooling!r} needs a name: a local folder or a hub name")
        return self


class LoraSettings(Settings):
    """Low-rank adapters W + (alpha / rank) B A; used only by the protocol ``lora``."""

    rank: int = setting(4, ge=1, source="Wu et al.: 4")
    """Rank of every adapter; Wu et al. use 4. The rank is part of the experts."""
    alpha: float = setting(4.0, gt=0)
    """Scale of the adapters before division by the rank."""
    targets: tuple[str, ...] = setting(("qkv",), source="the attention projections, as in LoRA, arXiv 2106.09685")
    """Module names (or their endings) of linear and convolution layers with an adapter. Wu et al. do not state theirs;
    the LoRA paper adapts the attention projections."""


class ModelSettings(Settings):
    """The two-tower retrieval model, and which parts of it are trained and matched."""

    protocol: Literal["full_image_encoder", "lora", "heads_only"]
    """Trained parts. ``full_image_encoder``: all image weights and the text head (Wu et al.); ``lora``: adapters of the
    image encoder and the heads; ``heads_only``: projection heads on frozen encoders (RepBlend, arXiv 2505.14705).
    Recalls under different protocols are not comparable."""
    image_encoder: ImageEncoderSettings
    """The image encoder."""
    text_encoder: TextEncoderSettings = setting(by_content=True)
    """The frozen text encoder."""
    image_head: bool | None = setting(None, source="only under heads_only, as published")
    """Whether the image side has a projection head; default: only under ``heads_only``, as published."""
    width: int = setting(256, ge=8, unit="dimensions")
    """Width of the shared space if both sides have a head; otherwise it is the image encoder's width."""
    dropout: float = setting(0.0, ge=0, lt=1)
    """Dropout in the projection heads during training."""
    temperature: float = setting(0.07, gt=0, source="Wu et al.: 0.07")
    """Temperature of the contrastive loss. The released code multiplies by log(1/0.07) in the inner loop and by 1/0.07
    elsewhere; here the factor is always 1/temperature."""
    lora: LoraSettings = setting(LoraSettings(), only_where=("model.protocol", "lora"))
    """The adapters of the protocol ``lora``."""

    @property
    def can_be_stacked(self) -> bool:
        """Whether one pass for several models is exact and saves time (:mod:`rayvldd.training.stacked`).

        With a whole encoder of its own, a model fills a GPU alone, and its convolutions would become slower grouped
        ones.
        """
        return not self.dropout and self.protocol != "full_image_encoder"

    @property
    def has_image_head(self) -> bool:
        """Whether the image side has a projection head, with the default filled in."""
        return self.protocol == "heads_only" if self.image_head is None else self.image_head

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if self.protocol == "heads_only" and self.image_head is False:
            raise ValueError("image_head: false leaves no trained parameters on the image side under heads_only")
        return self


# --- experts ------------------------------------------------------------------------------------------------------

TrajectoryStorage = Literal["float32", "float16_deltas", "float16"]
"""Number format of stored trajectories."""


CaptionsPerImage = Literal["one", "all"]
"""Captions of an image in an epoch."""


class ExpertSettings(Settings):
    """Training of experts on the real data: SGD without momentum, one snapshot per epoch."""

    num_experts: int = setting(20, ge=1, source="Wu et al.: 20", changes_experts=False)
    """Number of trajectories; Wu et al. use 20. Not part of the set's identity: more can be added."""
    epochs: int = setting(10, ge=1, unit="epochs", source="Wu et al.: 10")
    """Training epochs of an expert, which gives snapshots 0 to ``epochs``; Wu et al. use 10."""
    lr_image: float = setting(0.1, gt=0, source="Wu et al.: 0.1")
    """Learning rate of the image side; Wu et al. use 0.1."""
    lr_text: float = setting(0.1, gt=0, source="Wu et al.: 0.1")
    """Learning rate of the text head; Wu et al. use 0.1."""
    batch_size: int = setting(128, ge=2, unit="pairs", source="Wu et al.: 128")
    """Pairs in a training batch; Wu et al. use 128."""
    captions_per_image: CaptionsPerImage = setting("all", source="all: the released code of Wu et al.")
    """``all``: every image-caption pair once per epoch, as in the released code; ``one``: one random caption per image
    and epoch, a fifth of the cost."""
    num_train_images: int | None = setting(None, ge=2, unit="images")
    """Train only on this many training images, the first ones, to save time; default: all."""
    shared_start: bool = False
    """Whether all experts of a set start from the same initial parameters, and differ in the order of their batches
    alone. ``expert_fit.teacher: merged`` needs it; MDM's experts are fine-tuned from one start."""
    keep_epochs: Literal["all", "reached", "ends"] = setting("all", changes_experts=False, changes_recall=False)
    """``reached``: store only the epochs at which the study's segments can begin or end; a study that needs other
    epochs trains these experts again; ``ends``: only the two epochs that ``trajectory_matching.shortcut_to`` reads. Not
    part of the set's identity."""
    storage: TrajectoryStorage = "float32"
    """``float16_deltas`` stores each epoch after the first as its difference from the previously stored epoch, in 16
    bits: half the size; ``float16`` stores the first epoch in 16 bits as well. Part of the set's identity, because
    matching losses change in their last digits."""
    imported: str | None = None
    """Key of a set of trajectories of other code, imported with ``rayvldd experts import``; it is used as it is and
    never trained. Default: experts trained by this package."""


# --- evaluation ---------------------------------------------------------------------------------------------------

LearningRateDecay = Literal["none", "cosine", "step"]
"""Course of the learning rates of a training: constant, half a cosine from the full rates to nearly zero, or the full
rates until half of the steps and then a tenth."""

RATE_COURSES: dict[str, str] = {
    "none": "constant",
    "cosine": "falling by a cosine to nearly zero",
    "step": "a tenth of it from half of the steps on",
}
"""Each ``LearningRateDecay`` in words, for cards."""

MAX_RECIPES = 12
"""Maximum number of recipes for models of all pairs."""
MAX_MODELS = 3
"""Maximum number of models for the full-data bound: each costs as much as an expert, and they differ little."""
STUDENTS_FOR_RATE = 2
"""Students of each learning rate on coresets, each on its own coreset."""


class FullDataSettings(Settings):
    """Recipes for models of all pairs, whose recall is the full-data bound.

    One model is trained by every combination of the values below, at most 12, and the best one on validation is the
    recipe of the bound. The choice is kept in the workspace's cache.
    """

    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = setting((0.03, 0.1), min_length=1)
    """Learning rates of both sides."""
    momentums: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = setting((0.0, 0.9), min_length=1)
    """Momentums of SGD."""
    weight_decays: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Weight decays of SGD. Default: that of the students, ``evaluation.weight_decay``."""
    decays: tuple[LearningRateDecay, ...] = setting(("cosine",), min_length=1)
    """Courses of the learning rates: ``none``, ``cosine``, which ends at nearly zero, or ``step``, which cuts them by
    ten at half of the steps."""
    batch_sizes: tuple[Annotated[int, Field(ge=2)], ...] = setting((128, 512), min_length=1, unit="pairs")
    """Pairs in a training batch."""
    epochs: tuple[Annotated[int, Field(ge=1)], ...] = setting((10,), min_length=1, unit="epochs")
    """Training epochs."""
    captions_per_image: CaptionsPerImage = "one"
    """``one``: one random caption per image and epoch; ``all``: every image-caption pair once per epoch, which costs as
    many times more as an image has captions, and overfits sooner."""

    @property
    def num_recipes(self) -> int:
        """Number of recipes."""
        lists = (self.learning_rates, self.momentums, self.decays, self.batch_sizes, self.epochs)
        return math.prod(len(values) for values in lists) * max(len(self.weight_decays), 1)

    def total_epochs(self, num_students: int) -> int:
        """Epochs of all models of the bound: one by each recipe, and those of the longest recipe for the test.

        Args:
            num_students: Test students of a study, which limit the models too.
        """
        of_recipes = self.num_recipes // len(self.epochs) * sum(self.epochs)
        return of_recipes + min(MAX_MODELS, num_students) * max(self.epochs)

    @model_validator(mode="after")
    def _few(self) -> Self:
        if (count := self.num_recipes) > MAX_RECIPES:
            raise ValueError(f"the values combine to {count} recipes, allowed: at most {MAX_RECIPES}")
        return self


class EvaluationSettings(Settings):
    """Training and scoring of new students on a small set; the same for distilled sets and coresets."""

    num_students: int = setting(2, ge=1, unit="students", source="Wu et al.: 5")
    """Students trained for each evaluation on validation during a trial; Wu et al. use 5."""
    epochs: int = setting(100, ge=1, unit="epochs", source="Wu et al.: 100")
    """Training epochs of a student on the small set; Wu et al. use 100."""
    proxy_epochs: int | None = setting(None, ge=1, unit="epochs")
    """Epochs of the single student that replaces ``num_students`` students in a trial's first
    ``search.grace_evaluations`` evaluations, which only decide which trials continue; with 30 the cost is a tenth of a
    full evaluation. Default: no proxy."""
    batch_size: int = setting(100, ge=2, unit="pairs", source="the released code of Wu et al.: 128")
    """Pairs in a batch of a student; the released code uses 128."""
    momentum: float = setting(0.9, ge=0, lt=1, source="Wu et al.: 0.9")
    """Momentum of the student's SGD; Wu et al. use 0.9."""
    weight_decay: float = setting(5e-4, ge=0, source="Wu et al.: 5e-4")
    """Weight decay of the student's SGD; Wu et al. use 5e-4."""
    learning_rate_decay: LearningRateDecay = setting("none", source="step: the released codes of Wu et al. and LoRS")
    """Course of a student's learning rates, stated in the card of a set. ``none``: constant; ``cosine``: half a cosine
    from the full rates to nearly zero over all steps; ``step``: a tenth of the rates from half of the steps on."""
    lr_coreset: tuple[Annotated[float, Field(gt=0)], ...] = setting((0.03, 0.1, 0.3, 1.0), min_length=1)
    """Learning rates of students on real pairs, which have no learned step sizes: for each method and number of pairs
    the best one on validation is used."""
    weight_decay_coreset: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Weight decays of students on real pairs, each tried with every rate of ``lr_coreset``; default:
    ``weight_decay``."""
    num_test_students: int = setting(5, ge=2, unit="students", source="Wu et al.: 5", changes_recall=False)
    """Students, each with its own seed, trained on each chosen set for the single test evaluation, and on each set of a
    finalist for the choice on validation."""
    further_metrics: tuple[str, ...] = ()
    """Registered names of additional metrics, computed for the students of every evaluation on validation."""
    full_data: FullDataSettings = setting(FullDataSettings(), changes_recall=False)
    """Recipes for models of all pairs, the best of which is the full-data bound."""

    def student_steps(self, num_pairs: int) -> int:
        """SGD steps of a student on so many pairs; a contrastive loss needs two, so a batch of one is left out."""
        batches, left = divmod(num_pairs, self.batch_size)
        return self.epochs * (batches + (left > 1))

    @property
    def recipes_on_coresets(self) -> tuple[tuple[float, float | None], ...]:
        """Learning rate and weight decay of students on real pairs to try; a weight decay of None: ``weight_decay``."""
        return tuple(product(self.lr_coreset, self.weight_decay_coreset or (None,)))


# --- search -------------------------------------------------------------------------------------------------------


_GPU_UNITS = 10_000
"""Ray counts GPUs in units of 0.0001."""


def actors_on_gpus(gpus: float, gpus_per_actor: float) -> int:
    """How many actors fit on GPUs at the same time.

    Ray never splits an actor over GPUs: of requests for 0.4 GPU, two fit on each GPU.

    Args:
        gpus: GPUs of a machine or cluster.
        gpus_per_actor: A fraction of one GPU, or a whole number of GPUs; more than 0.
    """
    if gpus_per_actor >= 1:
        return int(gpus // gpus_per_actor)
    return int(gpus) * (_GPU_UNITS // round(gpus_per_actor * _GPU_UNITS))


class ResourceSettings(Settings):
    """Resources of one actor or trial; they change speed, and not results for the same number of threads.

    ``resources: auto`` is the same as leaving the section out.
    """

    cpus_per_expert: int = setting(1, ge=1, unit="CPUs")
    """CPUs and torch threads of an actor that trains experts."""
    gpus_per_expert: float | None = setting(None, ge=0, le=1, unit="GPUs")
    """A GPU, or a fraction of one, of an actor that trains experts; it uses no more than one. Default: a share of the
    GPUs that are there, with which ``search.max_concurrent`` actors run at the same time; none on a machine without a
    GPU."""
    experts_in_one_pass: int | None = setting(None, ge=1, unit="experts")
    """Experts that an actor with a GPU trains in one pass, without ``model.dropout``. Default: 4 under ``heads_only``;
    1 under ``lora``, where a pass has the images of all of them in memory. A whole image encoder is trained alone."""
    custom_per_expert: dict[str, Annotated[float, Field(gt=0)]] = setting({})
    """Amounts of custom Ray resources of such an actor, e.g. ``{spot: 1}``, which the nodes of a cluster declare."""
    cpus_per_trial: int = setting(1, ge=1, unit="CPUs")
    """CPUs and torch threads of a distillation trial or an evaluation."""
    gpus_per_trial: float | None = setting(None, ge=0, unit="GPUs")
    """GPUs, or a fraction of one, of a distillation trial or an evaluation. A fraction limits the memory to the same
    fraction; further GPUs share the images of student steps, in micro-batches. Default: as for an expert."""
    device_cache_gb: float | None = setting(None, ge=0, unit="GB")
    """GPU memory of an actor or trial for real data, in GB: images or their features, and caption embeddings. What fits
    stays on the GPU; of the rest, batches are copied. Default: a quarter of the free memory."""
    prefetch: bool = True
    """Read rows of arrays that do not stay on the GPU in a background thread, and copy them on a stream of their own,
    while the batch before is computed. The numbers are the same. Not tested on a GPU."""
    cuda_graphs: bool = False
    """Replay the training steps of experts and of students of pairs as CUDA graphs, on a GPU and without
    ``model.dropout``: one launch a step in place of hundreds. A step that cannot be recorded runs without, with a
    warning. Not tested on a GPU. For the steps inside an outer step: ``distillation.engine.compile``."""
    channels_last: bool = False
    """Keep the images of a trained image encoder with the channels last in memory (NHWC). Convolutions in bfloat16 and
    TF32 are faster so on recent GPUs, in float32 they may be slower. The numbers differ in the last digits. A frozen
    encoder has its weights in this order in any case. Not tested on a GPU."""
    checkpoint_minutes: float = setting(10.0, gt=0, unit="minutes")
    """Time after which a trial saves its state between slow evaluations; it also saves it at every evaluation. A trial
    on a machine that goes away loses no more."""

    @model_validator(mode="before")
    @classmethod
    def _auto(cls, values: object) -> object:
        return {} if values == "auto" else values

    @field_validator("gpus_per_expert", "gpus_per_trial")
    @classmethod
    def _fraction_or_whole_gpus(cls, gpus: float | None) -> float | None:
        """Ray rejects other values, but only when the search starts; it counts in units of 0.0001."""
        if gpus is None:
            return None
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"must be a fraction of one GPU, or a whole number of GPUs, got {gpus:g}")
        if 0 < gpus < 1e-4:
            raise ValueError(f"the smallest fraction of a GPU is 0.0001, got {gpus:g}")
        return gpus

    def gpus_of(self, who: Literal["expert", "trial"], gpus: float, at_a_time: int) -> float:
        """The GPUs of one expert or trial: the setting, or its share of the GPUs that are there.

        Args:
            who: Whose.
            gpus: GPUs of the machine or cluster.
            at_a_time: Experts or trials that share them.
        """
        stated = self.gpus_per_expert if who == "expert" else self.gpus_per_trial
        if stated is not None or gpus < 1:
            return stated or 0.0
        on_each = math.ceil(at_a_time / int(gpus))  # Ray never splits an actor over GPUs
        return _GPU_UNITS // on_each / _GPU_UNITS

    @property
    def device_of_trials(self) -> Literal["auto", "cuda", "cpu"]:
        """The device of a trial's process; ``auto``: the GPU, if the process has one."""
        if self.gpus_per_trial is None:
            return "auto"
        return "cuda" if self.gpus_per_trial else "cpu"
