"""The two-tower retrieval model, split into a frozen and a trained part.

    image x -> frozen part -> image part (trained) -> embedding        text y -> text part (trained) -> embedding

The *protocol* determines the split. Under ``heads_only`` the whole encoder is frozen, its output can be computed once,
and only heads are trained and matched; under ``full_image_encoder`` and ``lora`` the frozen part is the identity.
Everything after the frozen part is a function of a flat parameter vector, so that students are values.

Source: Wu et al., section 3.1 and the released ``networks.py``. Deviation: the released inner loop multiplies
similarities by log(1 / 0.07) = 2.66, experts and evaluation by 1 / 0.07 = 14.29; here it is 14.29 everywhere.
"""

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from rayvldd.config.settings import LoraSettings, ModelSettings
from rayvldd.errors import Fault, ModelError
from rayvldd.models.copies import parameters_to_device
from rayvldd.models.image_encoder import build_image_encoder, image_identity, normalisation
from rayvldd.models.pair_losses import PAIR_LOSSES
from rayvldd.models.parameters import ParameterLayout, Parameters
from rayvldd.randomness import seeded

_FROZEN_SEED = 0
"""Seed of frozen weights that are not loaded; it is the same for all studies."""


class ProjectionHead(nn.Module):
    """Linear, GELU, Linear, dropout, residual, LayerNorm: the head of Wu et al. (their ``ProjectionHead``)."""

    def __init__(self, in_width: int, out_width: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Linear(in_width, out_width)
        self.fc = nn.Linear(out_width, out_width)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(out_width)

    def forward(self, features: Float[Tensor, "item in_dim"]) -> Float[Tensor, "item dim"]:
        """Project each row to the shared space."""
        projected = self.projection(features)
        output: Tensor = self.layer_norm(projected + self.dropout(self.fc(F.gelu(projected))))
        return output

    def reset_parameters(self) -> None:
        """Initialise the parameters from torch's global generator."""
        for part in (self.projection, self.fc, self.layer_norm):
            part.reset_parameters()


class RetrievalModel(nn.Module):
    """Maps images and caption embeddings to a shared space in which the embeddings of a pair are close."""

    def __init__(self, settings: ModelSettings, image_size: int, text_width: int) -> None:
        """Build both towers.

        Raises:
            ModelError: if an encoder cannot be built, an adapter target matches nothing, or the encoder does not
                accept images of this size.
        """
        super().__init__()
        self.settings = settings
        encoder = build_image_encoder(settings.image_encoder, _FROZEN_SEED)
        self.fingerprint = image_identity(settings.image_encoder, encoder)
        mean, std = normalisation(settings.image_encoder, encoder)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        faults: list[Fault] = []
        self.encoder_width = _width_of(encoder, settings, image_size, faults)
        if settings.protocol == "lora":
            encoder = _with_adapters(encoder.requires_grad_(False), settings.lora, faults)
        if faults:
            raise ModelError(faults, next_command="rayvldd check STUDY.yaml, after correcting them")
        width = settings.width if settings.has_image_head else self.encoder_width
        head: nn.Module = nn.Identity()
        with seeded(_FROZEN_SEED):  # students initialise their own heads; here the global generator must not change
            self.text_part = ProjectionHead(text_width, width, settings.dropout)
            if settings.has_image_head:
                head = ProjectionHead(self.encoder_width, width, settings.dropout)
        if settings.protocol == "heads_only":
            # Depthwise networks on a CPU: forward and backward take 0.72 of the time with channels last.
            self.frozen_part: nn.Module = encoder.requires_grad_(False).to(memory_format=torch.channels_last)
            self.image_part = head
        else:
            self.frozen_part = nn.Identity()
            self.image_part = nn.Sequential(encoder, head)
        self._channels_last = False
        self.image_layout = ParameterLayout.of(self.image_part)
        self.text_layout = ParameterLayout.of(self.text_part)
        self._copies: tuple[nn.Module, nn.Module] | None = None
        self.train(False)

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether features after the frozen part can be computed once and cached."""
        return self.settings.protocol == "heads_only"

    def train(self, mode: bool = True) -> "RetrievalModel":
        """Switch dropout of the heads; the encoder's normalisation statistics stay frozen either way."""
        super().train(mode)
        self.frozen_part.eval()
        for module in self.image_part.modules():
            if isinstance(module, _BatchNorm):  # its running statistics are not part of a trajectory
                module.eval()
        return self

    def with_channels_last(self) -> "RetrievalModel":
        """Compute convolutions of a trained image encoder with the channels last in memory; returns the model itself.

        Only :meth:`laid_out` images are affected: convolutions take the order of their images, and all that follows
        keeps it. Trained weights are parts of a flat vector, which a convolution copies into this order.
        """
        if not self.encoder_is_frozen:
            self._channels_last = True
            for weight in self.image_part.parameters():
                # Frozen ones below adapters alone: new students draw the others in the order of their memory.
                if weight.ndim == 4 and not weight.requires_grad:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        return self

    def laid_out(self, images: Shaped[Tensor, "image ..."]) -> Shaped[Tensor, "image ..."]:
        """Return inputs of the image part in its order of memory: themselves if they are, or are features."""
        return images.contiguous(memory_format=torch.channels_last) if self._channels_last else images

    def normalise(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image 3 height width"]:
        """Convert RGB on a scale from 0 to 1 to the scale that the encoder's weights expect."""
        return (images - self.mean) / self.std  # type: ignore[operator]  # buffers are tensors

    def denormalise(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image 3 height width"]:
        """Convert the encoder's scale to RGB on a scale from 0 to 1, without clamping."""
        return images * self.std + self.mean  # type: ignore[operator]  # buffers are tensors

    def embed_images(
        self, frozen_output: Float[Tensor, "image ..."], parameters: Float[Tensor, " image_param"]
    ) -> Float[Tensor, "image dim"]:
        """Embed outputs of the frozen part with the given parameters; embeddings have length 1."""
        named = self.image_layout.unflatten(parameters)
        return F.normalize(functional_call(self.image_part, named, (frozen_output,)), dim=1)

    def encode(
        self, images: Float[Tensor, "image 3 height width"], parameters: Float[Tensor, " image_param"]
    ) -> Float[Tensor, "image feature"]:
        """Features of images before the head, with the given parameters; not for a frozen encoder."""
        encoder: nn.Module = self.image_part[0]  # type: ignore[index]  # a Sequential of encoder and head
        named = self.image_layout.unflatten(parameters).items()
        own = {name.removeprefix("0."): value for name, value in named if name.startswith("0.")}
        features: Tensor = functional_call(encoder, own, (images,))
        return features

    def embed_texts(
        self, texts: Float[Tensor, "text text_dim"], parameters: Float[Tensor, " text_param"]
    ) -> Float[Tensor, "text dim"]:
        """Embed caption embeddings with the given parameters; the results have length 1."""
        return F.normalize(functional_call(self.text_part, self.text_layout.unflatten(parameters), (texts,)), dim=1)

    def loss(
        self,
        parameters: Parameters,
        frozen_output: Float[Tensor, "pair ..."],
        texts: Float[Tensor, "pair text_dim"],
        *,
        similarity: Float[Tensor, "pair pair"] | None = None,
        pair_loss: str = "info_nce",
    ) -> Float[Tensor, ""]:
        """The loss of a batch of pairs with the given parameters, by default the contrastive loss.

        Args:
            parameters: Parameters of both towers.
            frozen_output: Output of the frozen part for the images.
            texts: Caption embeddings.
            similarity: Target similarity of image i and text j; None: the identity.
            pair_loss: A name of ``PAIR_LOSSES``.
        """
        return PAIR_LOSSES[pair_loss](
            self.embed_images(frozen_output, parameters.image),
            self.embed_texts(texts, parameters.text),
            similarity,
            self.settings.temperature,
        )

    def initial_parameters(self, seed: int) -> Parameters:
        """Parameters of a new student: pretrained weights if available, the rest initialised from ``seed``.

        They are drawn on the CPU, so that devices agree, and reach another device in one copy for each side.
        """
        image_part, text_part = self._parts_on_cpu()
        with seeded(seed):
            if self.settings.protocol == "full_image_encoder" and not _is_pretrained(self.settings):
                fresh = build_image_encoder(self.settings.image_encoder, seed)
                image_part[0].load_state_dict(fresh.state_dict())  # type: ignore[index]
            for module in [*image_part.modules(), *text_part.modules()]:
                reset_adapter: Any = getattr(module, "reset_lora_parameters", None)  # only peft's layers have it
                if isinstance(module, ProjectionHead):
                    module.reset_parameters()
                elif reset_adapter:
                    reset_adapter("default", init_lora_weights=True)
        sides = self.image_layout.flatten(image_part), self.text_layout.flatten(text_part)
        device: torch.device = self.mean.device  # type: ignore[assignment]  # buffers are tensors
        return parameters_to_device(sides, device)

    def _parts_on_cpu(self) -> tuple[nn.Module, nn.Module]:
        """The trained parts, or copies of them if the model is on another device; these are kept."""
        if self.mean.device.type == "cpu":
            return self.image_part, self.text_part
        if self._copies is None:
            self._copies = deepcopy(self.image_part).cpu(), deepcopy(self.text_part).cpu()
        return self._copies


def _is_pretrained(settings: ModelSettings) -> bool:
    return settings.image_encoder.pretrained or settings.image_encoder.weights is not None


def _width_of(encoder: nn.Module, settings: ModelSettings, image_size: int, faults: list[Fault]) -> int:
    """Determine the width of the encoder's output for one black image; add its errors to ``faults``."""
    encoder.eval()
    try:
        with torch.no_grad():
            output: Tensor = encoder(torch.zeros(1, 3, image_size, image_size))
        if output.ndim != 2:
            raise ValueError(f"it returns shape {tuple(output.shape)}, not one feature vector an image")
    except Exception as error:  # models raise many types of errors for other image sizes
        faults.append(
            Fault(
                "model.image_encoder",
                f"{settings.image_encoder.name!r} does not take {image_size} px images: {error}",
                f"an encoder for this size; vision transformers need options: {{img_size: {image_size}}}",
            )
        )
        return 1
    return output.shape[1]


def _with_adapters(encoder: nn.Module, lora: LoraSettings, faults: list[Fault]) -> nn.Module:
    """Add LoRA adapters to the target layers and freeze the rest; add mismatches to ``faults``."""
    from peft import LoraConfig, inject_adapter_in_model  # 3 s of imports that only this protocol needs

    alpha: Any = lora.alpha  # peft declares an int, and only ever divides it by the rank
    config = LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=list(lora.targets))
    kinds = (nn.Linear, nn.Conv2d)
    fitting = sorted({name.split(".")[-1] for name, module in encoder.named_modules() if isinstance(module, kinds)})
    try:
        with seeded(_FROZEN_SEED):
            return inject_adapter_in_model(config, encoder)
    except ValueError as error:
        reason = " ".join(str(error).split())  # peft prints whole modules, one line each
        problem = f"targets {list(lora.targets)} with rank {lora.rank}: {reason}"
        faults.append(Fault("model.lora", problem, ", ".join(fitting)))
        return encoder
