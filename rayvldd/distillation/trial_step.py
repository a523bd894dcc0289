"""Run one step of a study's method on a few blank pairs, to test whether the model supports its derivatives.

A layer without a second derivative can be built, trained and evaluated, but fails in every distillation. This check
detects it before an expert is trained.
"""

import numpy as np
import torch

from rayvldd.config.study import Study
from rayvldd.data.dataset import Split
from rayvldd.distillation.method import build_method
from rayvldd.distillation.synthetic_set import SyntheticSet
from rayvldd.errors import Fault, RayvlddError, message_of
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs

_PAIRS = 2
_TEXT_WIDTH = 8
"""Width of the blank captions; the text side has the same two layers at every width."""
_STEPS = 2
"""Student steps: the second step is also differentiated by the parameters after the first."""


def faults_of_step(study: Study) -> list[Fault]:
    """Return faults if a layer of the image encoder does not support the study's method and protocol.

    Args:
        study: The study at one point, with a valid model.
    """
    task = _blank_task(study)
    declaration = study.distillation.declaration
    changes = {f"{declaration.name}.{name}": value for name, value in declaration.for_probe.items()}
    probed = {f"distillation.{name}": value for name, value in changes.items()}
    point = study.at({**probed, "experts.keep_epochs": "all"})
    section = point.completed_distillation.section()
    fields = type(section).model_fields
    short = {"syn_steps": _STEPS, "batch_size": None, "truncated_steps": _STEPS, "window": None}
    section = section.model_copy(update={name: value for name, value in short.items() if name in fields})
    engine = point.distillation.engine.model_copy(
        update={"compile": False, "micro_batch": None, "graph_budget_gb": 0.0}
    )
    settings = point.distillation.model_copy(
        update={
            "num_pairs": _PAIRS,
            "similarity": "identity",
            "engine": engine,
            "initialise_from": None,
            "fixed_pairs": 0,
            declaration.name: section,
        }
    )
    start = task.model.initial_parameters(0)
    target = Parameters(*(side + 1e-3 for side in start))
    experts = [Trajectory.of_every_epoch([start, target])] if point.requires_experts else []
    generator = np.random.default_rng(0)
    try:
        synthetic_set = SyntheticSet(task, settings, generator, 0)
        build_method(task, settings, experts).gradient(synthetic_set, 0, generator)
    except RayvlddError:  # settings that leave fewer than two pairs; other checks report them
        return []
    except (RuntimeError, NotImplementedError) as error:  # raised by torch for a missing derivative
        problem = (
            f"{study.model.image_encoder.name!r} cannot be differentiated as {declaration.name} does under "
            f"{study.model.protocol}: {message_of(error)}"
        )
        return [Fault("model.image_encoder", problem, "an encoder whose layers have it, or protocol: heads_only")]
    return []


def _blank_task(study: Study) -> RetrievalTask:
    model = RetrievalModel(study.model, study.data.image_size, _TEXT_WIDTH)
    side = study.data.image_size
    pixels = np.full((_PAIRS, 3, side, side), 128, dtype=np.uint8)
    names = [f"blank {number}" for number in range(_PAIRS)]
    split = Split("train", names, pixels, names, np.arange(_PAIRS, dtype=np.int64))
    images = np.zeros((_PAIRS, model.encoder_width), dtype=np.float32) if model.encoder_is_frozen else pixels
    texts = np.random.default_rng(0).standard_normal((_PAIRS, _TEXT_WIDTH)).astype(np.float32)
    inputs = SplitInputs(split, images, texts)
    return RetrievalTask(model, inputs, inputs, inputs, {}, torch.device("cpu"))
