"""The settings of one run, each with its meaning, unit and source.

These are values: validated where they are made, frozen afterwards, printed by ``--dry-run`` and kept beside
every result. "Wu et al." is arXiv 2308.07545; "MTT" is Cazenavette et al., arXiv 2203.11932.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from rayvldd.config.base import Settings
from rayvldd.config.setting import setting

# --- data ---------------------------------------------------------------------------------------------------------


class ToyScenesData(Settings):
    """Scenes of coloured objects drawn in code, with several true captions each: needs no download."""

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
    """Seed of the drawing; the study's own seed does not change the data."""


class FolderData(Settings):
    """A folder with one JSON-lines file: ``{"image": ..., "captions": [...], "split": "train|val|test"}``."""

    source: Literal["folder"]
    root: str
    """Folder that holds the annotation file and the images."""
    annotations: str = "captions.jsonl"
    """The JSON-lines file, relative to ``root``."""
    images: str = "images"
    """Folder of the image files, relative to ``root``."""
    image_size: int = setting(224, ge=16, le=1024, unit="pixels", by_content=False)
    """Side of the square to which images are resized (bicubic, aspect ratio not kept, as in Wu et al.), in pixels."""


class KarpathyData(Settings):
    """A Karpathy-split JSON (``dataset_flickr8k.json``, ``dataset_flickr30k.json``, ``dataset_coco.json``)."""

    source: Literal["karpathy"]
    root: str
    """Folder that holds the annotation file and the images."""
    annotations: str
    """The JSON file, relative to ``root``."""
    images: str = "images"
    """Folder of the image files, relative to ``root``; COCO's ``filepath`` is appended to it."""
    restval: Literal["train", "drop"] = "train"
    """Where COCO's ``restval`` images go: the field adds them to the training split."""
    image_size: int = setting(224, ge=16, le=1024, unit="pixels", by_content=False)
    """Side of the square to which images are resized, in pixels."""


class BlipData(Settings):
    """BLIP-style annotation files, one a split, as the released code of Wu et al. reads them."""

    source: Literal["blip"]
    root: str
    """Folder that holds the annotation files and the images."""
    annotations: str = "flickr30k_{split}.json"
    """File name with ``{split}`` where train, val or test stands, relative to ``root``."""
    images: str = "."
    """Folder that the ``image`` paths of the files start from, relative to ``root``."""
    image_size: int = setting(224, ge=16, le=1024, unit="pixels", by_content=False)
    """Side of the square to which images are resized, in pixels."""

    @model_validator(mode="after")
    def _one_file_a_split(self) -> Self:
        if "{split}" not in self.annotations:
            raise ValueError(f"annotations must hold {{split}} where the split's name stands, got {self.annotations!r}")
        return self


DataSettings = Annotated[ToyScenesData | FolderData | KarpathyData | BlipData, Field(discriminator="source")]


# --- models -------------------------------------------------------------------------------------------------------


class ImageEncoderSettings(Settings):
    """Which timm model turns pixels into features, and where its weights come from."""

    name: str
    """A timm model name (``timm.list_models()``), e.g. ``nfnet_l0``; ``convnet_d3`` is the small net of the field."""
    pretrained: bool = True
    """Start from pretrained weights: from ``weights`` if given, else from timm's hub (needs network)."""
    weights: str | None = setting(None, by_content=True)
    """A local checkpoint file for this model; overrides the hub."""
    options: dict[str, JsonValue] = setting({})
    """Further arguments of ``timm.create_model``, e.g. ``{pad_type: same}``."""
    mean: tuple[float, float, float] | None = None
    """RGB mean that the weights expect on a 0 to 1 scale; default: what timm says for the model."""
    std: tuple[float, float, float] | None = None
    """RGB standard deviation that the weights expect; default: what timm says for the model."""


class TextEncoderSettings(Settings):
    """Which frozen encoder turns captions into the embeddings that are distilled."""

    pooling: Literal["cls", "mean", "clip", "hashed_ngrams"]
    """``cls``: first token (BERT in Wu et al.); ``mean``: masked mean (sentence encoders); ``clip``: CLIP's text
    projection; ``hashed_ngrams``: word n-grams hashed to a fixed width, no weights and no download."""
    name: str = ""
    """Local folder or hub name for transformers, e.g. ``bert-base-uncased``; empty for ``hashed_ngrams``."""
    width: int = setting(384, ge=16, unit="dimensions")
    """Width of ``hashed_ngrams`` embeddings; the other encoders report their own."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.pooling != "hashed_ngrams" and not self.name:
            raise ValueError(f"pooling {self.pooling!r} needs a name: a local folder or a hub name")
        return self


class LoraSettings(Settings):
    """Low-rank adapters W + (alpha / rank) B A; used by the protocol ``lora`` alone."""

    rank: int = setting(4, ge=1, source="Wu et al.: 4")
    """Rank of every adapter; Wu et al. use 4. The rank is part of the experts."""
    alpha: float = setting(4.0, gt=0)
    """Scale of the adapters before division by the rank."""
    targets: tuple[str, ...] = setting(("qkv",), source="the attention projections, as in LoRA, arXiv 2106.09685")
    """Module names (or their endings) of linear and convolution layers that get an adapter. Wu et al. do not state
    theirs; LoRA's own paper adapts the attention projections."""


class ModelSettings(Settings):
    """The two-tower retrieval model and what of it is trained and matched."""

    protocol: Literal["full_image_encoder", "lora", "heads_only"]
    """``full_image_encoder``: every image weight and the text head (Wu et al.); ``lora``: adapters on the image
    encoder and the heads; ``heads_only``: projection heads on frozen encoders (RepBlend, arXiv 2505.14705). Recalls
    under different protocols are not comparable."""
    image_encoder: ImageEncoderSettings
    """The image encoder."""
    text_encoder: TextEncoderSettings = setting(by_content=True)
    """The frozen text encoder."""
    image_head: bool | None = setting(None, source="only under heads_only, as published")
    """Whether the image side has a projection head; default: only under ``heads_only``, as in print."""
    width: int = setting(256, ge=8, unit="dimensions")
    """Width of the shared space where both sides have a head; otherwise it is the image encoder's."""
    dropout: float = setting(0.0, ge=0, lt=1)
    """Dropout inside the projection heads while training."""
    temperature: float = setting(0.07, gt=0, source="Wu et al.: 0.07")
    """Temperature of the contrastive loss. The released code multiplies by log(1/0.07) in the inner loop, by 1/0.07
    elsewhere; here it is 1/temperature everywhere."""
    lora: LoraSettings = setting(LoraSettings(), only_where=("model.protocol", "lora"))
    """The adapters of the protocol ``lora``."""

    @property
    def has_image_head(self) -> bool:
        """Whether the image side has a projection head, with the default filled in."""
        return self.protocol == "heads_only" if self.image_head is None else self.image_head

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if self.protocol == "heads_only" and self.image_head is False:
            raise ValueError("image_head: false leaves nothing to train on the image side under heads_only")
        return self


# --- experts ------------------------------------------------------------------------------------------------------

TrajectoryStorage = Literal["float32", "float16_deltas"]
"""How the numbers of a trajectory are kept."""


class ExpertSettings(Settings):
    """How experts are trained on the real data: plain SGD, one snapshot an epoch."""

    num_experts: int = setting(20, ge=1, source="Wu et al.: 20", changes_experts=False)
    """Trajectories in the set; Wu et al. use 20. Not part of the set's identity: more can be added."""
    epochs: int = setting(10, ge=1, unit="epochs", source="Wu et al.: 10")
    """Epochs an expert is trained for, so snapshots 0 to ``epochs``; Wu et al. use 10."""
    lr_image: float = setting(0.1, gt=0, source="Wu et al.: 0.1")
    """SGD rate of the image side; Wu et al. use 0.1."""
    lr_text: float = setting(0.1, gt=0, source="Wu et al.: 0.1")
    """SGD rate of the text head; Wu et al. use 0.1."""
    batch_size: int = setting(128, ge=2, unit="pairs", source="Wu et al.: 128")
    """Pairs in a training batch; Wu et al. use 128."""
    captions_per_image: Literal["one", "all"] = setting("all", source="all: the released code of Wu et al.")
    """``all``: every image-caption pair once an epoch, as the released code; ``one``: one caption an image, drawn
    anew each epoch, a fifth of the cost."""
    num_train_images: int | None = setting(None, ge=2, unit="images")
    """Train on the first so many training images only, to save time; default: all of them."""
    keep_epochs: Literal["all", "reached"] = setting("all", changes_experts=False, changes_recall=False)
    """``reached``: keep only the epochs at which the study's segments can begin or end; a study that reaches others
    trains these experts again. Not part of the set's identity."""
    storage: TrajectoryStorage = "float32"
    """``float16_deltas`` keeps every epoch after the start as its difference from the epoch kept before it in 16 bits:
    half the bytes. Part of the set's identity, as matching losses change in their last digits."""
    imported: str | None = None
    """The key under which ``rayvldd experts import`` put trajectories that other code made; such a set is taken as it
    is and never made. Default: experts of our own."""


# --- evaluation ---------------------------------------------------------------------------------------------------


class EvaluationSettings(Settings):
    """How fresh students are trained on a small set and scored; the same for distilled sets and coresets."""

    num_students: int = setting(2, ge=1, unit="students", source="Wu et al.: 5")
    """Students trained at each evaluation during a trial, on validation; Wu et al. use 5."""
    epochs: int = setting(100, ge=1, unit="epochs", source="Wu et al.: 100")
    """Epochs a student trains on the small set; Wu et al. use 100."""
    proxy_epochs: int | None = setting(None, ge=1, unit="epochs")
    """Epochs of the one student that stands for ``num_students`` in a trial's first ``search.grace_evaluations``, where
    recall only decides which trials go on; at 30 it is a tenth of a full evaluation. Default: no proxy."""
    batch_size: int = setting(100, ge=2, unit="pairs", source="the released code of Wu et al.: 128")
    """Pairs in a student's batch; the released code uses 128."""
    momentum: float = setting(0.9, ge=0, lt=1, source="Wu et al.: 0.9")
    """Momentum of the student's SGD; Wu et al. use 0.9."""
    weight_decay: float = setting(5e-4, ge=0, source="Wu et al.: 5e-4")
    """Weight decay of the student's SGD; Wu et al. use 5e-4."""
    lr_coreset: float = setting(0.1, gt=0)
    """Student rate on real pairs, which have no learned step sizes."""
    num_test_students: int = setting(5, ge=2, unit="students", source="Wu et al.: 5", changes_recall=False)
    """Students, each with its own seed, trained on each chosen set for the one look at test, and on each set of a
    finalist for the choice on validation."""
    further_metrics: tuple[str, ...] = ()
    """Metrics beside recall, by their registered names, computed on the students of every evaluation on validation."""
    full_data_epochs: int = setting(10, ge=1, unit="epochs", changes_recall=False)
    """Epochs of the full-data bound, trained as the experts are."""


# --- search -------------------------------------------------------------------------------------------------------


class ResourceSettings(Settings):
    """What one actor or trial takes of the machine; changes speed, never results within one thread count."""

    cpus_per_expert: int = setting(1, ge=1, unit="CPUs")
    """CPUs, and torch threads, of an actor that trains experts."""
    gpus_per_expert: float = setting(0.0, ge=0, unit="GPUs")
    """GPUs, or a fraction of one, of an actor that trains experts."""
    custom_per_expert: dict[str, Annotated[float, Field(gt=0)]] = setting({})
    """Amounts of further resources that the nodes of a cluster declare, e.g. ``{spot: 1}``, of such an actor."""
    cpus_per_trial: int = setting(1, ge=1, unit="CPUs")
    """CPUs, and torch threads, of a distillation trial or an evaluation."""
    gpus_per_trial: float = setting(0.0, ge=0, unit="GPUs")
    """GPUs, or a fraction of one, of a distillation trial or an evaluation."""

    @field_validator("gpus_per_expert", "gpus_per_trial")
    @classmethod
    def _share_of_a_gpu_or_whole_ones(cls, gpus: float) -> float:
        """Ray refuses others, when everything before is done already, and counts in ten-thousandths."""
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"must be a share of one GPU, or a whole number of them, got {gpus:g}")
        if 0 < gpus < 1e-4:
            raise ValueError(f"the smallest share of a GPU is 0.0001, got {gpus:g}")
        return gpus
