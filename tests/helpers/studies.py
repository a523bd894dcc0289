"""Studies that several tests use."""

from typing import Any

TINY_STUDY: dict[str, Any] = {
    "name": "tiny",
    "seed": 7,
    "data": {"source": "toy_scenes", "image_size": 16, "num_train": 40, "num_val": 12, "num_test": 12},
    "model": {
        "protocol": "heads_only",
        "image_encoder": {"name": "convnet_d3", "pretrained": False, "options": {"img_size": 16, "width": 8}},
        "text_encoder": {"pooling": "hashed_ngrams", "width": 32},
        "width": 16,
    },
    "experts": {"num_experts": 2, "epochs": 2, "batch_size": 32},
    "distillation": {
        "num_pairs": 4,
        "lr_image": 10.0,
        "lr_text": 10.0,
        "outer_steps": 4,
        "evaluate_every": 2,
        "trajectory_matching": {"syn_steps": 2, "expert_epochs": 1, "max_start_epoch": 1},
    },
    "evaluation": {"num_students": 1, "epochs": 2, "num_test_students": 2, "full_data_epochs": 1},
}
"""The smallest study that runs every part, in seconds on one core."""
