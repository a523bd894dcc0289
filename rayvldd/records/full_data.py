"""The recipe of the full-data bound: how models of all pairs are trained, and the recipes that it was chosen from."""

from typing import ClassVar

from rayvldd.config.settings import CaptionsPerImage, LearningRateDecay
from rayvldd.printable import counted
from rayvldd.records.form import Record, Values


class FullDataRecipe(Values):
    """Settings of SGD on all pairs."""

    learning_rate: float
    """Of both sides."""
    momentum: float
    weight_decay: float
    decay: LearningRateDecay
    """Course of the learning rate."""
    batch_size: int
    epochs: int
    captions_per_image: CaptionsPerImage
    """Captions of an image in an epoch."""

    @property
    def words(self) -> str:
        """The recipe in one line."""
        decay = "a constant rate" if self.decay == "none" else f"{self.decay} decay"
        captions = ", one caption per image" if self.captions_per_image == "one" else ""
        return (
            f"SGD at {self.learning_rate:g} with momentum {self.momentum:g}, weight decay {self.weight_decay:g} and "
            f"{decay}, batches of {self.batch_size}, "
            f"{counted(self.epochs, 'epoch')}{captions}"
        )


class TriedRecipe(Values):
    """A recipe with the result of its model."""

    recipe: FullDataRecipe
    val_mean_recall: float | None
    """In percent; None if the training diverged."""


class ChosenRecipe(TriedRecipe):
    """The best of several recipes, as shown beside the bound."""

    num_recipes: int

    @property
    def words(self) -> str:
        """The choice in one line."""
        recall = "diverged" if self.val_mean_recall is None else f"{self.val_mean_recall:.1f} on validation"
        choice = f", the best of {self.num_recipes} recipes" if self.num_recipes > 1 else ""
        return f"{self.recipe.words}: {recall}{choice}"


class FullDataChoice(Record):
    """The recipe that is the best of a grid on validation."""

    version = 1
    title: ClassVar[str] = "the recipe of the full-data bound"
    remedy: ClassVar[str] = "delete {folder} and repeat the command: the recipe is chosen again"

    key: str
    """Hash of data, model, grid and seed; the name of its folder in the cache."""
    tried: tuple[TriedRecipe, ...]
    """In the order of the grid."""

    @property
    def best(self) -> ChosenRecipe:
        """The recipe with the highest recall on validation; the first one in a tie."""
        best = max(self.tried, key=lambda tried: -1.0 if tried.val_mean_recall is None else tried.val_mean_recall)
        return ChosenRecipe(recipe=best.recipe, val_mean_recall=best.val_mean_recall, num_recipes=len(self.tried))


class RanksOfModel(Record):
    """Ranks of the correct answers to every query of a split, of one model of all pairs."""

    version = 1
    title: ClassVar[str] = "ranks of a model of all pairs"
    remedy: ClassVar[str] = "delete {file} and repeat the command: the model is trained again"

    image_to_text: tuple[int, ...]
    text_to_image: tuple[int, ...]


class NumbersOfModel(Record):
    """Numbers of one model of all pairs on further images and texts."""

    version = 1
    title: ClassVar[str] = "numbers of a model of all pairs"
    remedy: ClassVar[str] = "delete {file} and repeat the command: the model is trained again"

    numbers: dict[str, float]
    """By the metric's name."""
