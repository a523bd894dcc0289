"""ConvNet-3, the small network of image dataset distillation, called ``convnet_d3`` beside the models of timm.

Three blocks of convolution, per-channel normalisation, ReLU and average pooling, as in Zhao, Mopuri and Bilen,
"Dataset Condensation with Gradient Matching" (arXiv 2006.05929), section 4.1. Deviations: the width is a setting (128
there), and instance normalisation is implemented as GroupNorm with one group per channel, the same function.

Weights pretrained on drawn scenes ship with the package (``drawn_weights`` makes them), for the default width.
"""

from pathlib import Path
from typing import ClassVar

from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

SHIPPED_WEIGHTS = Path(__file__).with_name("weights") / "convnet_d3_drawn.safetensors"
SHIPPED_WIDTH = 32


class ConvNet(nn.Module):
    """Maps pixels to the flattened last feature map, which preserves spatial positions."""

    pretrained_cfg: ClassVar[dict[str, tuple[float, ...]]] = {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "input_size": (3, 32, 32),
    }
    """Normalisation and input size of the weights, as timm's models state them."""

    def __init__(self, img_size: int = 32, width: int = SHIPPED_WIDTH, depth: int = 3) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for index in range(depth):
            blocks += [
                nn.Conv2d(3 if index == 0 else width, width, 3, padding=1),
                nn.GroupNorm(width, width),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.num_features = width * (img_size // 2**depth) ** 2

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image feature"]:
        """Return features of shape [image, width * (height / 2**depth)**2]."""
        features: Tensor = self.blocks(images).flatten(1)
        return features


def convnet_d3(*, pretrained: bool = False, **options: int) -> ConvNet:
    """Build the network, with the shipped weights if ``pretrained``.

    Raises:
        RuntimeError: when the shipped weights do not match the options.
        TypeError: for an option that the network does not have.
    """
    model = ConvNet(**options)
    if pretrained:
        model.load_state_dict(load_file(SHIPPED_WEIGHTS))
    return model
