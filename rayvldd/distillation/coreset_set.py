"""A coreset in the form of a distilled set, so that whatever reads the one reads the other."""

from typing import Any

import rayvldd
from rayvldd.coresets.selection import Coreset
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.models.retrieval_task import RetrievalTask


def coreset_as_set(task: RetrievalTask, coreset: Coreset, method: str, seed: int) -> DistilledSet:
    """Real pairs with the step sizes of ``evaluation.lr_coreset``; they are their own start.

    The card names method, seed and images under ``coreset``. Whatever the study's method, students train on real pairs
    with the contrastive loss.
    """
    model = task.model
    pairs = coreset.pairs(task)
    plain: dict[str, Any] = {
        "distillation.num_pairs": len(coreset.image_index),
        "distillation.batch_size": None,
        "distillation.student_loss": "info_nce",
        "distillation.similarity": "identity",
    }
    images, texts = model.denormalise(pairs.images).cpu(), pairs.texts.cpu()
    card = {
        "study": task.study.at(plain).model_dump(mode="json"),
        "fingerprints": task.fingerprints,
        "normalisation": {name: getattr(model, name).flatten().tolist() for name in ("mean", "std")},
        "matched_parameters": {"image": model.image_layout.size, "text": model.text_layout.size},
        "seed": seed,
        "outer_step": 0,
        "metrics": {},
        "coreset": {
            "method": method,
            "seed": seed,
            "images": [task.train.split.image_names[index] for index in coreset.image_index],
        },
        "rayvldd_version": rayvldd.__version__,
    }
    return DistilledSet(
        images=images,
        texts=texts,
        start_images=images.clone(),
        start_texts=texts.clone(),
        start_captions=coreset.captions(task),
        lr_student_image=pairs.lr_image,
        lr_student_text=pairs.lr_text,
        card=card,
    )
