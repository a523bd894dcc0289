"""Make the weights that ``convnet_d3`` ships with: a small encoder that has seen drawn scenes.

    python -m rayvldd.models.drawn_weights

Distillation in print starts from an encoder pretrained on ImageNet. The embedded default has no download, so its
encoder is pretrained here, on scenes of another seed than any study draws by default, by the contrastive loss between
the scenes and their hashed captions; the heads of that training are thrown away. AdamW, three minutes on one core.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rayvldd.config.settings import ToyScenesData
from rayvldd.data.toy_scenes import draw_split
from rayvldd.models.convnet import SHIPPED_WEIGHTS, SHIPPED_WIDTH, ConvNet
from rayvldd.models.pair_losses import info_nce
from rayvldd.models.retrieval_model import ProjectionHead
from rayvldd.models.text_encoder import HashedNgrams
from rayvldd.randomness import seeded
from rayvldd.storage.tensor_files import save_tensors

_SCENES = ToyScenesData(source="toy_scenes", image_size=32, num_train=6000, seed=1_000_003)
_EPOCHS = 30
_BATCH = 128
_MEAN_AND_STD = 0.5
"""The scale of pixels: 0 to 1 becomes -1 to 1."""


def pretrain(seed: int = 0) -> ConvNet:
    """Train the encoder with throw-away heads and return it."""
    pixels, captions = draw_split(_SCENES, "train")
    images = (torch.from_numpy(np.asarray(pixels)).float() / 255 - _MEAN_AND_STD) / _MEAN_AND_STD
    text_encoder = HashedNgrams(512)
    kth = [[of_image[k] for of_image in captions] for k in range(len(captions[0]))]
    texts = [F.normalize(text_encoder.embed(some), dim=1) for some in kth]
    with seeded(seed):
        encoder = ConvNet(img_size=_SCENES.image_size, width=SHIPPED_WIDTH)
        heads = [ProjectionHead(width, 256, 0.0) for width in (encoder.num_features, text_encoder.width)]
        parameters = [value for part in (encoder, *heads) for value in part.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, 2e-3, epochs=_EPOCHS, steps_per_epoch=len(images) // _BATCH
        )
        for epoch in range(_EPOCHS):
            for chosen in torch.randperm(len(images)).split(_BATCH)[: len(images) // _BATCH]:
                sides = heads[0](encoder(images[chosen])), heads[1](texts[epoch % len(texts)][chosen])
                left, right = (F.normalize(side, dim=1) for side in sides)
                loss = info_nce(left, right, None, 0.07)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
            print(f"epoch {epoch + 1} of {_EPOCHS}: loss {loss.item():.3f}", flush=True)
    return encoder


def main() -> None:
    """Pretrain and write the file beside the model's code."""
    torch.set_num_threads(1)  # the same numbers on every machine with one kind of processor
    SHIPPED_WEIGHTS.parent.mkdir(exist_ok=True)
    save_tensors(SHIPPED_WEIGHTS, pretrain().state_dict())
    print(f"{SHIPPED_WEIGHTS}: {Path(SHIPPED_WEIGHTS).stat().st_size} bytes")


if __name__ == "__main__":
    main()
