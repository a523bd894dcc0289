"""The student of a study as a model of MLflow, whose loader this module is: images or captions to embeddings.

It does not import MLflow, which calls it by name from ``mlflow models serve`` and ``mlflow.pyfunc.load_model``.
"""

from pathlib import Path

import pandas as pd

from rayvldd.errors import DataError, Fault
from rayvldd.evaluation.kept_student import KeptStudent

IMAGE, CAPTION = "image", "caption"
"""Columns of a request."""
EMBEDDING = "{}_embedding"
"""Column of the answer for a column of the request."""
_NEXT = "the same request with a column image, a column caption, or both"


class ServedStudent:
    """A student behind MLflow's interface of models."""

    def __init__(self, student: KeptStudent) -> None:
        self.student = student

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Embed the images and captions of a request.

        Args:
            model_input: A column ``image`` of encoded images (bytes), a column ``caption`` of texts, or both.

        Returns:
            For each column of the request one of embeddings: lists of floats, of length 1 as vectors.

        Raises:
            DataError: if both columns are missing, or a value is no image or no text.
        """
        given = [name for name in (IMAGE, CAPTION) if name in model_input]
        if not given:
            columns = f"columns {', '.join(map(str, model_input.columns)) or 'none'}"
            raise DataError([Fault("the request", columns, f"{IMAGE}, {CAPTION} or both")], next_command=_NEXT)
        _refuse_empty_values(model_input[given])
        found = {}
        if IMAGE in given:
            found[IMAGE] = self.student.embed_images([bytes(value) for value in model_input[IMAGE]])
        if CAPTION in given:
            found[CAPTION] = self.student.embed_captions([str(value) for value in model_input[CAPTION]])
        return pd.DataFrame(
            {EMBEDDING.format(name): embeddings.tolist() for name, embeddings in found.items()}, index=model_input.index
        )


def _refuse_empty_values(rows: pd.DataFrame) -> None:
    faults = [
        Fault(f"{name} {number}", "no value", "a value in every row of the column; images and captions in two requests")
        for name in rows
        for number, is_empty in enumerate(rows[name].isna())
        if is_empty
    ]
    if faults:
        raise DataError(faults, next_command=_NEXT)


def _load_pyfunc(data_path: str) -> ServedStudent:
    return ServedStudent(KeptStudent(Path(data_path)))
