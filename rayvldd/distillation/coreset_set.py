"""Convert a coreset to a distilled set, so that both share the same format."""

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.coresets.selection import Coreset
from rayvldd.distillation.distilled_set import DistilledSet, card_of
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.records.coreset_rate import ChosenRate
from rayvldd.records.set_card import CoresetCard, CoresetOrigin, OriginCard


def coreset_as_set(
    study: Study, task: RetrievalTask, coreset: Coreset, method: str, seed: int, rate: ChosenRate
) -> DistilledSet:
    """Create a set of real pairs with one step size on both sides; the initial pairs are the same.

    The card names method, seed and images under ``coreset``. Independently of the study's method, students train on
    real pairs with the contrastive loss.

    Args:
        study: The study at one point.
        task: Model and data of the study.
        coreset: The real pairs.
        method: Name of the coreset method, for the card.
        seed: Seed of the selection, for the card.
        rate: Learning rate and weight decay of students on the pairs.
    """
    pairs = coreset.pairs(task, rate.learning_rate)
    plain: dict[str, SettingValue] = {
        "distillation.num_pairs": len(coreset.image_index),
        "distillation.trajectory_matching.batch_size": None,
        "distillation.student_loss": "info_nce",
        "distillation.similarity": "identity",
    }
    if rate.weight_decay is not None:
        plain["evaluation.weight_decay"] = rate.weight_decay
    images, texts = task.model.denormalise(pairs.images).cpu(), pairs.texts.cpu()
    names = [task.train.split.image_names[index] for index in coreset.image_index]
    origin = CoresetOrigin(method=method, seed=seed, images=names)
    card = card_of(study.at(plain), task, seed)
    return DistilledSet(
        images=images,
        texts=texts,
        start_images=images.clone(),
        start_texts=texts.clone(),
        start_captions=coreset.captions(task),
        lr_student_image=pairs.lr_image,
        lr_student_text=pairs.lr_text,
        card=CoresetCard(coreset=origin, **{name: getattr(card, name) for name in OriginCard.model_fields}),
    )
