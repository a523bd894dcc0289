"""Inner loop: unroll student SGD on the synthetic set and differentiate the matching loss through it.

    theta_{i+1} = theta_i - a * g_i,    g_i = gradient of l(theta_i, x, y) at theta_i,    i = 0 ... S - 1

on both sides at once, with a the learned step size of the side. The released code keeps one graph over all steps, so
its memory grows with S. Here the graph ends at every step; with lambda_S = dL/dtheta_S, a backward sweep from i = S - 1
to 0 accumulates

    dL/dx += -a (dg_i/dx)' lambda_{i+1}
    dL/da += -<lambda_{i+1}, g_i>
    lambda_i = lambda_{i+1} - a (dg_i/dtheta)' lambda_{i+1}

with one double backward per step. As many of the last steps as memory allows keep the graph of their g_i; the others
recompute it. The numbers do not depend on how many graphs are kept: with all of them it is the full unroll in pieces,
with one the plain reverse sweep.

Two other vectors are available for comparison (``InnerLoopSettings.gradient``):

- *truncated*: the sweep ends after a given number of steps and omits the contributions of earlier steps.
- *tesla*: lambda stays lambda_S at every step. This is what the two-pass form published as TESLA (arXiv 2211.10586,
  section 4.1) and used by follow-up work computes: it sets dg_i/dtheta to zero, and is not the gradient of L.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayvldd.config.distillation import DistillationSettings, EngineSettings
from rayvldd.config.methods.inner_loop import InnerLoopSettings
from rayvldd.distillation.unroll.batches import Batch, InnerBatches, InputGradient, Preparation, StudentInputs, pick
from rayvldd.distillation.unroll.checkpoints import ParameterCheckpoints, build_checkpoints
from rayvldd.distillation.unroll.graph_budget import GraphBudget
from rayvldd.distillation.unroll.student_step import StepSizes, StepTape, StudentStep, build_student_step
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel

_log = logging.getLogger("rayvldd.distillation")


class EndLoss(NamedTuple):
    """Loss of the final parameters of a student."""

    value: Float[Tensor, ""]
    """Differentiated value."""
    log: dict[str, Float[Tensor, ""]]
    """Scalars to log."""

    def detached(self) -> "EndLoss":
        """Return the values without their graph."""
        return EndLoss(self.value.detach(), {name: value.detach() for name, value in self.log.items()})


class InnerLoop:
    """Inner loop of one run: its model, its settings and its graph budget."""

    def __init__(self, model: RetrievalModel, common: DistillationSettings, settings: InnerLoopSettings) -> None:
        self._model, self._engine, self._settings = model, common.engine, settings
        self._step = build_student_step(model, common)
        self._prepare = Preparation(common, settings, model.encoder_is_frozen)
        self._budget: GraphBudget | None = None
        self._said = False

    def gradient(
        self,
        start: Parameters,
        end_loss: Callable[[Parameters], EndLoss],
        inputs: StudentInputs,
        batches: InnerBatches,
    ) -> tuple[EndLoss, StudentInputs]:
        """Return the loss and its gradient, or the configured replacement, with respect to all ``inputs``.

        Args:
            start: Initial parameters of the student.
            end_loss: Loss of its final parameters.
            inputs: The synthetic set and the step sizes.
            batches: Pairs and seed of each step.
        """
        self._model.train()
        try:
            with self._twice_differentiable_attention():
                unroll = _Unroll(self._step, self._prepare, self._engine, self._settings, inputs, batches)
                return unroll.gradient(start, end_loss, self._graph_budget(inputs.texts.device))
        finally:
            self._model.train(False)

    def _graph_budget(self, device: torch.device) -> GraphBudget:
        if self._budget is None:  # not before the first step, when the data is already on its device
            self._budget = GraphBudget(self._engine.graph_budget_gb, device)
        return self._budget

    @contextmanager
    def _twice_differentiable_attention(self) -> Iterator[None]:
        """Disable fused attention in this block, because it has no double backward."""
        if not self._said and any(getattr(module, "fused_attn", False) for module in self._model.modules()):
            _log.info("attention runs unfused inside the inner loop: the fused kernels have no double backward")
            self._said = True
        with sdpa_kernel(SDPBackend.MATH):
            yield


class _Unroll:
    """One forward pass of a student and the backward sweep through it."""

    def __init__(
        self,
        step: StudentStep,
        prepare: Preparation,
        engine: EngineSettings,
        settings: InnerLoopSettings,
        inputs: StudentInputs,
        batches: InnerBatches,
    ) -> None:
        self._step, self._prepare, self._engine, self._settings = step, prepare, engine, settings
        self._inputs, self._batches = inputs, batches
        self._sizes = StepSizes(inputs.lr_image.detach(), inputs.lr_text.detach())

    def gradient(
        self, start: Parameters, end_loss: Callable[[Parameters], EndLoss], budget: GraphBudget
    ) -> tuple[EndLoss, StudentInputs]:
        steps, settings = len(self._batches), self._settings
        first_needed = max(0, steps - settings.truncated_steps) if settings.gradient == "truncated" else 0
        kept = self._graphs_to_keep(start, budget, steps - first_needed)
        needed = range(first_needed, steps - kept)
        kind, device = self._engine.parameter_checkpoints, self._inputs.texts.device
        with closing(build_checkpoints(kind, needed, device, self._advance)) as states:
            end, tapes = self._forward(start, states, needed)
            image, text = (side.detach().requires_grad_() for side in end)
            loss = end_loss(Parameters(image, text))
            adjoint = Parameters(*torch.autograd.grad(loss.value, (image, text), materialize_grads=True))
            loss = loss.detached()
            total = InputGradient(self._inputs)
            for step in reversed(range(first_needed, steps)):
                # Temporaries of one step must be freed before the next is computed: hence a call without local names.
                adjoint = self._step_back(
                    step,
                    tapes.pop() if tapes else self._take(step, states.get(step)),
                    adjoint,
                    total,
                    further=step > first_needed,
                )
            return loss, total.total

    def _graphs_to_keep(self, start: Parameters, budget: GraphBudget, steps: int) -> int:
        prepared = self._see(len(self._batches) - 1).prepared
        return budget.graphs_to_keep(self._step, start, prepared, self._batches.seeds[-1], steps)

    def _forward(
        self, start: Parameters, states: ParameterCheckpoints, needed: range
    ) -> tuple[Parameters, list["_TapedStep"]]:
        """Take all steps; store the states in ``needed``, and keep the graphs of the later steps.

        Returns the final parameters and the steps with graphs.
        """
        parameters, tapes = start, []
        for step in range(len(self._batches)):
            if step >= needed.stop:
                tapes.append(self._take(step, parameters))
                parameters = self._moved(parameters, tapes[-1].tape.gradient)
                continue
            if step in needed:
                states.put(step, parameters)
            parameters = self._advance(step, parameters)
        return parameters, tapes

    def _step_back(
        self, step: int, taken: "_TapedStep", adjoint: Parameters, total: InputGradient, further: bool
    ) -> Parameters:
        """Add the contribution of a step to ``total``; return the adjoint before it, if ``further`` steps follow."""
        through_parameters = further and self._settings.gradient != "tesla"
        back = self._step.back(taken.tape, adjoint, self._sizes, through_parameters)
        total.add(self._batches.batches[step], taken.seen.by_pairs(back.by_batch))
        total.add_step_sizes(*back.products)
        if back.by_parameters is None:
            return adjoint
        return Parameters(*(side - by for side, by in zip(adjoint, back.by_parameters, strict=True)))

    def _see(self, step: int) -> "_PreparedBatch":
        pairs = pick(self._inputs, self._batches.batches[step])
        prepared = self._prepare(pairs, self._batches.seeds[step])
        return _PreparedBatch(pairs, prepared, pairs if self._prepare.changes_nothing else prepared.leaves())

    def _take(self, step: int, start: Parameters) -> "_TapedStep":
        seen = self._see(step)
        return _TapedStep(seen, self._step.take(start, seen.leaves, self._batches.seeds[step]))

    def _advance(self, step: int, start: Parameters) -> Parameters:
        with torch.no_grad():
            seen = self._prepare(pick(self._inputs, self._batches.batches[step]), self._batches.seeds[step])
        return self._moved(start, self._step.gradient(start, seen, self._batches.seeds[step]))

    def _moved(self, start: Parameters, gradient: Parameters | None) -> Parameters:
        assert gradient is not None  # only steps that keep graphs have a tape in the forward pass
        return Parameters(
            *(side.detach() - size * by.detach() for side, size, by in zip(start, self._sizes, gradient, strict=True))
        )


class _PreparedBatch(NamedTuple):
    """Pairs of a step, the prepared batch, and the prepared batch as leaves of the step's own graph."""

    pairs: Batch
    prepared: Batch
    leaves: Batch

    def by_pairs(self, by_leaves: Batch) -> Batch:
        """Propagate the gradient through the preparation."""
        if self.leaves is self.pairs:
            return by_leaves
        by = torch.autograd.grad(self.prepared.tensors(), self.pairs.tensors(), by_leaves.tensors())
        return Batch(by[0], by[1], by[2] if self.pairs.similarity is not None else None)


class _TapedStep(NamedTuple):
    """A step of the backward sweep with its batch."""

    seen: _PreparedBatch
    tape: StepTape
