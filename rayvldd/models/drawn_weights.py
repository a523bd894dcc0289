"""Pretrain the weights shipped with ``convnet_d3`` on drawn scenes.

    python -m rayvldd.models.drawn_weights

Published distillation methods start from an encoder pretrained on ImageNet. The default encoder here must not need a
download, so this script pretrains it on drawn scenes with AdamW and the contrastive loss between scenes and hashed
captions, and discards the heads. The seed of the scenes differs from the default seed of studies. Training takes about
three minutes on one core.
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
"""Mean and deviation for pixel normalisation: 0 to 1 becomes -1 to 1."""


def pretrain(seed: int = 0) -> ConvNet:
    """Train the encoder with temporary heads and return it."""
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
    """Pretrain the encoder and write its weights to the folder of the model code."""
    torch.set_num_threads(1)  # for the same numbers on every machine with the same processor type
    SHIPPED_WEIGHTS.parent.mkdir(exist_ok=True)
    save_tensors(SHIPPED_WEIGHTS, pretrain().state_dict())
    print(f"{SHIPPED_WEIGHTS}: {Path(SHIPPED_WEIGHTS).stat().st_size} bytes")


if __name__ == "__main__":
    main()
