"""Inner loop: unroll student SGD on the synthetic set and differentiate a loss of its end through it.

    theta_{i+1} = theta_i - a * g_i,    g_i = gradient of l(theta_i, x, y) at theta_i,    i = 0 ... S - 1

on both sides at once, with a the learned step size of the side. The released code of trajectory matching keeps one
graph over all steps, so its memory grows with S. Here the graph ends at every step; with lambda_S = dL/dtheta_S, a
backward sweep from i = S - 1 to 0 accumulates

    dL/dx += -a (dg_i/dx)' lambda_{i+1}
    dL/da += -<lambda_{i+1}, g_i>
    lambda_i = lambda_{i+1} - a (dg_i/dtheta)' lambda_{i+1}

with one double backward per step. As many of the last steps as memory allows keep the graph of their g_i; the others
recompute it. The numbers do not depend on how many graphs are kept: with all of them it is the full unroll in pieces,
with one the plain reverse sweep.

A student with momentum m and weight decay w moves by v_{i+1} = m v_i + g_i + w theta_i, theta_{i+1} = theta_i - a
v_{i+1}. The adjoint nu of the velocity is then carried as well; u = -nu / a, which starts at 0, makes the sweep the
plain one with u in place of lambda:

    u_i = lambda_{i+1} + m u_{i+1}
    dL/dx += -a (dg_i/dx)' u_i
    dL/da += -<u_i, g_i + w theta_i>
    lambda_i = lambda_{i+1} - a ((dg_i/dtheta)' u_i + w u_i)

The sum of <u_i, g_i + w theta_i> equals that of <lambda_{i+1}, v_{i+1}>, so that no velocity is stored. A sweep that
ends at step s > 0 has the further term dL/da += -m <u_s, v_s>. If the step size decays, step i moves by f_i a v_{i+1};
then u_i = f_i lambda_{i+1} + m u_{i+1}, and all else is the same.

Two other vectors are available (``InnerLoopSettings.steps_back`` and ``through_parameters``):

- *truncated*: the sweep ends after a given number of steps and omits the contributions of earlier steps.
- *tesla*, for comparison: lambda stays lambda_S at every step. This is what the two-pass form published as TESLA
  (arXiv 2211.10586, section 4.1) and used by follow-up work computes: it sets dg_i/dtheta to zero, and is not the
  gradient of L.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayvldd.config.distillation import DistillationSettings, EngineSettings
from rayvldd.config.methods.inner_loop import InnerLoopSettings
from rayvldd.config.settings import LearningRateDecay
from rayvldd.distillation.unroll.batches import Batch, InnerBatches, InputGradient, Preparation, StudentInputs, pick
from rayvldd.distillation.unroll.checkpoints import ParameterCheckpoints, StudentState, build_checkpoints
from rayvldd.distillation.unroll.graph_budget import GraphBudget
from rayvldd.distillation.unroll.student_step import StepSizes, StepTape, StudentStep, build_student_step
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.training.gradients import vector_jacobian_products
from rayvldd.training.sgd import decay_factor

_log = logging.getLogger("rayvldd.distillation")


class EndLoss(NamedTuple):
    """Loss of the final parameters of a student."""

    value: Float[Tensor, ""]
    """Differentiated value."""
    log: dict[str, Float[Tensor, ""]]
    """Scalars to log."""
    by_parameters: Parameters | None = None
    """Gradient with respect to the final parameters, where the loss computes it itself, e.g. in micro-batches."""

    def differentiated(self, end: Parameters) -> Parameters:
        """Return the gradient with respect to the final parameters."""
        if self.by_parameters is not None:
            return self.by_parameters
        return Parameters(*torch.autograd.grad(self.value, end, materialize_grads=True))

    def detached(self) -> "EndLoss":
        """Return the values without their graph."""
        return EndLoss(self.value.detach(), {name: value.detach() for name, value in self.log.items()})


@dataclass(frozen=True)
class StudentSgd:
    """SGD of a student; by default a step is its step size times the gradient."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    decay: LearningRateDecay = "none"
    """Course of the step sizes over the steps of a loop."""


PLAIN_SGD = StudentSgd()
"""Neither momentum nor weight decay, and constant step sizes."""


class InnerLoop:
    """Inner loop of one run: its model, its settings and its graph budget."""

    def __init__(
        self,
        model: RetrievalModel,
        common: DistillationSettings,
        settings: InnerLoopSettings,
        sgd: StudentSgd = PLAIN_SGD,
        further_devices: Sequence[torch.device] = (),
    ) -> None:
        self._model, self._engine, self._settings, self._sgd = model, common.engine, settings, sgd
        self._step = build_student_step(model, common, further_devices)
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
                unroll = _Unroll(self._step, self._prepare, self._engine, self._settings, self._sgd, inputs, batches)
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
        sgd: StudentSgd,
        inputs: StudentInputs,
        batches: InnerBatches,
    ) -> None:
        self._step, self._prepare, self._engine, self._settings = step, prepare, engine, settings
        self._sgd, self._inputs, self._batches = sgd, inputs, batches
        self._sizes = StepSizes(inputs.lr_image.detach(), inputs.lr_text.detach())

    def gradient(
        self, start: Parameters, end_loss: Callable[[Parameters], EndLoss], budget: GraphBudget
    ) -> tuple[EndLoss, StudentInputs]:
        steps, steps_back = len(self._batches), self._settings.steps_back
        first_needed = 0 if steps_back is None else max(0, steps - steps_back)
        kept = self._graphs_to_keep(start, budget, steps - first_needed)
        needed = range(first_needed, steps - kept)
        kind, device = self._engine.parameter_checkpoints, self._inputs.texts.device
        with closing(build_checkpoints(kind, needed, device, self._advance)) as states:
            end, tapes, velocity = self._forward(start, states, needed)
            leaves = Parameters(*(side.detach().requires_grad_() for side in end))
            loss = end_loss(leaves)
            adjoint = _Adjoint(loss.differentiated(leaves))
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
            if velocity is not None and adjoint.direction is not None:
                products = (u @ v for u, v in zip(adjoint.direction, velocity, strict=True))
                total.add_step_sizes(*(self._sgd.momentum * product for product in products))
            return loss, total.total

    def _graphs_to_keep(self, start: Parameters, budget: GraphBudget, steps: int) -> int:
        prepared = self._see(len(self._batches) - 1).prepared
        return budget.graphs_to_keep(self._step, start, prepared, self._batches.seeds[-1], steps)

    def _forward(
        self, start: Parameters, states: ParameterCheckpoints, needed: range
    ) -> tuple[Parameters, list["_TapedStep"], Parameters | None]:
        """Take all steps; store the states in ``needed``, and keep the graphs of the later steps.

        Returns the final parameters, the steps with graphs, and the velocity at the first step of the sweep.
        """
        state, tapes, velocity = StudentState(start), [], None
        for step in range(len(self._batches)):
            if step == needed.start:
                velocity = state.velocity
            if step >= needed.stop:
                tapes.append(self._take(step, state.parameters))
                state = self._moved(step, state, tapes[-1].tape.gradient)
                continue
            if step in needed:
                states.put(step, state)
            state = self._advance(step, state)
        return state.parameters, tapes, velocity

    def _step_back(
        self, step: int, taken: "_TapedStep", adjoint: "_Adjoint", total: InputGradient, further: bool
    ) -> "_Adjoint":
        """Add the contribution of a step to ``total``; return the adjoint before it, if ``further`` steps follow."""
        direction = adjoint.direction_before(self._sgd.momentum, self._factor(step))
        back = self._step.back(taken.tape, direction, self._sizes, further and self._settings.through_parameters)
        total.add(self._batches.batches[step], taken.seen.by_pairs(back.by_batch))
        products, decay = back.products, self._sgd.weight_decay
        if decay:
            starts = (side.detach() for side in taken.tape.start)
            products = StepSizes(
                *(by + decay * (u @ at) for by, u, at in zip(products, direction, starts, strict=True))
            )
        total.add_step_sizes(*products)
        if back.by_parameters is None:
            return adjoint._replace(direction=direction)
        parameters = Parameters(*(side - by for side, by in zip(adjoint.parameters, back.by_parameters, strict=True)))
        if decay:
            decayed = zip(parameters, self._sizes, direction, strict=True)
            parameters = Parameters(*(side - size * decay * u for side, size, u in decayed))
        return _Adjoint(parameters, direction)

    def _see(self, step: int) -> "_PreparedBatch":
        pairs = pick(self._inputs, self._batches.batches[step])
        prepared = self._prepare(pairs, self._batches.seeds[step])
        return _PreparedBatch(pairs, prepared, pairs if self._prepare.changes_nothing else prepared.leaves())

    def _take(self, step: int, start: Parameters) -> "_TapedStep":
        seen = self._see(step)
        return _TapedStep(seen, self._step.take(start, seen.leaves, self._batches.seeds[step]))

    def _advance(self, step: int, state: StudentState) -> StudentState:
        with torch.no_grad():
            seen = self._prepare(pick(self._inputs, self._batches.batches[step]), self._batches.seeds[step])
        return self._moved(step, state, self._step.gradient(state.parameters, seen, self._batches.seeds[step]))

    def _factor(self, step: int) -> float:
        """Return the factor on the step sizes at a step."""
        return decay_factor(self._sgd.decay, step, len(self._batches))

    def _moved(self, step: int, state: StudentState, gradient: Parameters | None) -> StudentState:
        assert gradient is not None  # only steps that keep graphs have a tape in the forward pass
        momentum, decay, factor = self._sgd.momentum, self._sgd.weight_decay, self._factor(step)
        start, move = Parameters(*(side.detach() for side in state.parameters)), [by.detach() for by in gradient]
        if decay:
            move = [by + decay * side for by, side in zip(move, start, strict=True)]
        if state.velocity is not None:
            move = [momentum * before + by for before, by in zip(state.velocity, move, strict=True)]
        end = Parameters(*(side - factor * size * by for side, size, by in zip(start, self._sizes, move, strict=True)))
        return StudentState(end, Parameters(*move) if momentum else None)


class _PreparedBatch(NamedTuple):
    """Pairs of a step, the prepared batch, and the prepared batch as leaves of the step's own graph."""

    pairs: Batch
    prepared: Batch
    leaves: Batch

    def by_pairs(self, by_leaves: Batch) -> Batch:
        """Propagate the gradient through the preparation."""
        if self.leaves is self.pairs:
            return by_leaves
        by = vector_jacobian_products(self.prepared.tensors(), self.pairs.tensors(), by_leaves.tensors())
        return Batch(by[0], by[1], by[2] if self.pairs.similarity is not None else None)


class _Adjoint(NamedTuple):
    """Gradient of the loss with respect to the student's state after a step."""

    parameters: Parameters
    """With respect to the parameters: lambda."""
    direction: Parameters | None = None
    """u of the following step, which is the gradient with respect to the velocity up to a factor; None at the end."""

    def direction_before(self, momentum: float, factor: float) -> Parameters:
        """Return u of the step: the adjoint that its gradient is multiplied with."""
        own = self.parameters if factor == 1 else Parameters(*(factor * side for side in self.parameters))
        if self.direction is None or not momentum:
            return own
        following = zip(own, self.direction, strict=True)
        return Parameters(*(side + momentum * u for side, u in following))


class _TapedStep(NamedTuple):
    """A step of the backward sweep with its batch."""

    seen: _PreparedBatch
    tape: StepTape
