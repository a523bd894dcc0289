"""The student's walk on the synthetic set and the gradient of where it ends.

    theta_{i+1} = theta_i - a * g_i,    g_i = gradient of l(theta_i, x, y) at theta_i,    i = 0 ... S - 1

on both sides at once, a being the learned step size of the side. The released code keeps one graph over all steps,
so its memory grows with S. Here the graph ends at every step; with lambda_S = dL/dtheta_S, a sweep back from i = S - 1
to 0 gathers

    dL/dx += -a (dg_i/dx)' lambda_{i+1}
    dL/da += -<lambda_{i+1}, g_i>
    lambda_i = lambda_{i+1} - a (dg_i/dtheta)' lambda_{i+1}

with one double backward a step. As many of the last steps as memory allows keep the graph of their g_i; the others
compute it again. Whatever is kept, the numbers are the same: all of them kept is the full unroll in pieces, one is the
plain reverse sweep.

Two other vectors are offered for comparison (``DistillationSettings.gradient``), each named for what it is:

- *truncated*: the sweep ends after so many steps; what the earlier ones add is left out.
- *tesla*: lambda stays lambda_S at every step. This is what the two-pass form published as TESLA (arXiv 2211.10586,
  section 4.1) and copied by follow-ups computes: it takes dg_i/dtheta for zero, and is not the gradient of L.
"""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayvldd.config.settings import DistillationSettings
from rayvldd.distillation.matching import MatchingLoss, matching_loss
from rayvldd.distillation.unroll.batches import Batch, InnerBatches, InputGradient, Preparation, StudentInputs, pick
from rayvldd.distillation.unroll.checkpoints import ParameterCheckpoints, build_checkpoints
from rayvldd.distillation.unroll.graph_budget import GraphBudget
from rayvldd.distillation.unroll.student_step import StepSizes, StepTape, StudentStep, build_student_step
from rayvldd.experts.trajectory import Segment
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel

_log = logging.getLogger("rayvldd.distillation")


class InnerLoop:
    """The inner loop of one run: its model, its settings, and what it has learned about memory."""

    def __init__(self, model: RetrievalModel, settings: DistillationSettings) -> None:
        self._model, self._settings = model, settings
        self._step = build_student_step(model, settings)
        self._prepare = Preparation(settings, model.encoder_is_frozen)
        self._memory: GraphBudget | None = None
        self._said = False

    def gradient(
        self, segment: Segment, inputs: StudentInputs, walk: InnerBatches
    ) -> tuple[MatchingLoss, StudentInputs]:
        """Return the matching loss and its gradient, or what the settings take for it, by everything in ``inputs``."""
        self._model.train()
        try:
            with self._twice_differentiable_attention():
                passage = _Unroll(self._step, self._prepare, self._settings, inputs, walk)
                return passage.gradient(segment, self._unroll_memory(inputs.texts.device))
        finally:
            self._model.train(False)

    def _unroll_memory(self, device: torch.device) -> GraphBudget:
        if self._memory is None:  # not before the first step, when the data already lies where it will
            self._memory = GraphBudget(self._settings.engine.graph_budget_gb, device)
        return self._memory

    @contextmanager
    def _twice_differentiable_attention(self) -> Iterator[None]:
        """Fused attention has no double backward: in here, and only in here, attention is spelled out."""
        if not self._said and any(getattr(module, "fused_attn", False) for module in self._model.modules()):
            _log.info("attention runs unfused inside the inner loop: the fused kernels have no double backward")
            self._said = True
        with sdpa_kernel(SDPBackend.MATH):
            yield


class _Unroll:
    """One way there and back."""

    def __init__(
        self,
        step: StudentStep,
        prepare: Preparation,
        settings: DistillationSettings,
        inputs: StudentInputs,
        walk: InnerBatches,
    ) -> None:
        self._step, self._prepare, self._settings = step, prepare, settings
        self._inputs, self._walk = inputs, walk
        self._sizes = StepSizes(inputs.lr_image.detach(), inputs.lr_text.detach())

    def gradient(self, segment: Segment, memory: GraphBudget) -> tuple[MatchingLoss, StudentInputs]:
        steps, settings = len(self._walk), self._settings
        first_needed = max(0, steps - settings.truncated_steps) if settings.gradient == "truncated" else 0
        kept = self._graphs_to_keep(segment.start, memory, steps - first_needed)
        needed = range(first_needed, steps - kept)
        kind, device = settings.engine.parameter_checkpoints, self._inputs.texts.device
        with closing(build_checkpoints(kind, needed, device, self._advance)) as states:
            loss, adjoint, taken = self._walk_there(segment, states, needed)
            total = InputGradient(self._inputs)
            for step in reversed(range(first_needed, steps)):
                # What one step leaves behind must be gone before the next is computed: hence a call, and no names here.
                adjoint = self._step_back(
                    step,
                    taken.pop() if taken else self._take(step, states.get(step)),
                    adjoint,
                    total,
                    further=step > first_needed,
                )
            return loss, total.total

    def _graphs_to_keep(self, start: Parameters, memory: GraphBudget, steps: int) -> int:
        seen = self._see(len(self._walk) - 1).prepared
        return memory.graphs_to_keep(self._step, start, seen, self._walk.seeds[-1], steps)

    def _walk_there(
        self, segment: Segment, states: ParameterCheckpoints, needed: range
    ) -> tuple[MatchingLoss, Parameters, list["_TapedStep"]]:
        """All steps; the states in ``needed`` are stored, the steps after those keep their graphs.

        Returns the matching loss where it ends, its gradient by that place, and the steps with graphs.
        """
        parameters, taken = segment.start, []
        for step in range(len(self._walk)):
            if step >= needed.stop:
                taken.append(self._take(step, parameters))
                parameters = self._moved(parameters, taken[-1].step.gradient)
                continue
            if step in needed:
                states.put(step, parameters)
            parameters = self._advance(step, parameters)
        image, text = (side.detach().requires_grad_() for side in parameters)
        loss = matching_loss(Parameters(image, text), segment, self._settings.matched)
        adjoint = torch.autograd.grad(loss.total, (image, text), materialize_grads=True)
        return loss.detached(), Parameters(*adjoint), taken

    def _step_back(
        self, step: int, taken: "_TapedStep", adjoint: Parameters, total: InputGradient, further: bool
    ) -> Parameters:
        """Add a step's part to ``total``; return the adjoint before it, if there is ``further`` to go."""
        through_parameters = further and self._settings.gradient != "tesla"
        back = self._step.back(taken.step, adjoint, self._sizes, through_parameters)
        total.add(self._walk.batches[step], taken.seen.by_pairs(back.by_batch))
        total.add_step_sizes(*back.products)
        if back.by_parameters is None:
            return adjoint
        return Parameters(*(side - by for side, by in zip(adjoint, back.by_parameters, strict=True)))

    def _see(self, step: int) -> "_PreparedBatch":
        pairs = pick(self._inputs, self._walk.batches[step])
        prepared = self._prepare(pairs, self._walk.seeds[step])
        return _PreparedBatch(pairs, prepared, pairs if self._prepare.changes_nothing else prepared.leaves())

    def _take(self, step: int, start: Parameters) -> "_TapedStep":
        seen = self._see(step)
        return _TapedStep(seen, self._step.take(start, seen.leaves, self._walk.seeds[step]))

    def _advance(self, step: int, start: Parameters) -> Parameters:
        with torch.no_grad():
            seen = self._prepare(pick(self._inputs, self._walk.batches[step]), self._walk.seeds[step])
        return self._moved(start, self._step.gradient(start, seen, self._walk.seeds[step]))

    def _moved(self, start: Parameters, gradient: Parameters | None) -> Parameters:
        assert gradient is not None  # only steps that keep graphs are taken on the way there
        return Parameters(
            *(side.detach() - size * by.detach() for side, size, by in zip(start, self._sizes, gradient, strict=True))
        )


class _PreparedBatch(NamedTuple):
    """A step's pairs, what became of them in preparation, and the same as the leaves of the step's own graph."""

    pairs: Batch
    prepared: Batch
    leaves: Batch

    def by_pairs(self, by_leaves: Batch) -> Batch:
        """Take the gradient back through the preparation."""
        if self.leaves is self.pairs:
            return by_leaves
        by = torch.autograd.grad(self.prepared.tensors(), self.pairs.tensors(), by_leaves.tensors())
        return Batch(by[0], by[1], by[2] if self.pairs.similarity is not None else None)


class _TapedStep(NamedTuple):
    """A step to go back through, and what it saw."""

    seen: _PreparedBatch
    step: StepTape
