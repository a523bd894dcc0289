"""Diagnostics of a distilled set in words: concentration of its modalities, and likeness to real images."""

from collections.abc import Mapping

from rayvldd.config.metrics import CONCENTRATION_IMAGE, CONCENTRATION_TEXT, DIAGNOSTICS, NEAREST_IMAGE


def words_of_diagnostics(metrics: Mapping[str, float]) -> str:
    """The diagnostics of a set in one line; empty if none were measured."""
    found = {name: metrics[name] for name in DIAGNOSTICS if name in metrics}
    parts = []
    if CONCENTRATION_IMAGE in found and CONCENTRATION_TEXT in found:
        parts.append(
            f"concentration {found[CONCENTRATION_IMAGE]:.2f} of images and {found[CONCENTRATION_TEXT]:.2f} of texts "
            f"(mean cosine within a modality; near 1 the pairs are nearly the same)"
        )
    if NEAREST_IMAGE in found:
        parts.append(f"cosine {found[NEAREST_IMAGE]:.2f} to the nearest real image (mean over the images; 1 is a copy)")
    return "; ".join(parts)
