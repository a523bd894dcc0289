"""The bi-trajectory matching loss: how far a student ends from its expert, on both sides.

    L = |student_img - target_img|^2 / |start_img - target_img|^2  +  the same for text

Source: Wu et al., equation 2; the normalisation by the expert's own way is that of MTT (arXiv 2203.11932).
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from rayvldd.experts.trajectory import Segment
from rayvldd.models.parameters import Parameters


class MatchingLoss(NamedTuple):
    """Both parts of the loss; 1 is a student that did not move, or moved as far off."""

    image: Float[Tensor, ""]
    text: Float[Tensor, ""]
    total: Float[Tensor, ""]
    """What is minimised: the sum, or the part that is matched alone."""

    def detached(self) -> "MatchingLoss":
        """The values without their graph."""
        return MatchingLoss(*(part.detach() for part in self))


def matching_loss(student: Parameters, segment: Segment, matched: str = "both") -> MatchingLoss:
    """Return the loss of a student that started at ``segment.start`` and ended at ``student``.

    Args:
        student: Where the student arrived.
        segment: Where it started, and where the expert went from there.
        matched: ``both`` sides, or the ``image`` or ``text`` side alone (Wu et al., ablation of single modalities).
    """
    image = _relative_distance(student.image, segment.start.image, segment.target.image)
    text = _relative_distance(student.text, segment.start.text, segment.target.text)
    return MatchingLoss(image, text, {"both": image + text, "image": image, "text": text}[matched])


def _relative_distance(
    arrived: Float[Tensor, " param"], start: Float[Tensor, " param"], target: Float[Tensor, " param"]
) -> Float[Tensor, ""]:
    return (arrived - target).square().sum() / (start - target).square().sum()
