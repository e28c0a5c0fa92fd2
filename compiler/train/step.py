"""The graph of a step: forward, errors, gradients, updates, and what the step leaves for the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import compiler.train.integer  # pyright: ignore[reportUnusedImport]  (declares)
import compiler.train.optimizers  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.errors import CompileError, Unsupported
from compiler.ir.graph import Graph, Input, Node, SourceView
from compiler.ir.stage import Stage
from compiler.ir.types import DType, TensorType
from compiler.train.gradient import differentiate
from compiler.train.integer.loss import RESULTS
from compiler.train.integer.maps import PadCodes
from compiler.train.integer.update import Update
from compiler.train.integer.weights import QuantizeWeights, first_exponent, next_exponent
from compiler.train.losses.loss import loss_of
from compiler.train.lowering import FIRST_SHIFT, RULES, Fixed, Lowerer, StateTensor
from compiler.train.network import TrainableNetwork
from compiler.train.optimizers.optimizer import Optimizer
from compiler.train.scalars import NUMBER
from isa.support.diagnostics import Diagnostic
from isa.support.records import Frozen, asdict, replace

NUMBERS: Final = "numbers"
"""The input with what the host computes for a step."""
MOVING: Final = "moving"
"""The input that says how running statistics move."""
STEP: Final = "step"
"""The state that counts the steps."""


def initial_state(
    states: Sequence[StateTensor], parameters: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """What the first step finds: parameters as they are given, all else at its beginning."""
    found: dict[str, NDArray[Any]] = {}
    for state in states:
        owner, _, kind = state.name.rpartition("/")
        if state.name in parameters:
            found[state.name] = np.asarray(parameters[state.name], np.float32)
        elif kind in ("exponent", "next_exponent"):
            found[state.name] = np.asarray(first_exponent(parameters[owner]), np.int32)
        elif kind == "shift":
            found[state.name] = np.asarray(FIRST_SHIFT, np.int32)
        else:
            found[state.name] = np.zeros(state.before.shape, state.before.type.dtype.numpy)
    return found


class TrainingStep(Frozen):
    """A step as a graph, and its state in order."""

    graph: Graph
    states: Sequence[StateTensor]


def training_step(network: TrainableNetwork, optimizer: Optimizer, *, weighted: bool = False) -> TrainingStep:
    """A step of training: the graph of the network is extended by its loss and the way back.

    With `weighted` the samples count by weights, which are an input; the numbers of the step end in the
    greatest weight over the number of samples.

    Raises:
        CompileError: an operation that no step computes, or that has no gradient.
    """
    rows, kind = network.logits.shape[0], loss_of(network.loss)
    labels = network.graph.input("labels", kind.labels, kind.labels_shape(network.logits.shape))
    loss = network.graph.add(kind(), [network.logits, labels], name="loss")
    fixed = network.frozen | network.statistics
    wanted = {n: p for n, p in network.parameters.items() if n not in fixed}
    gradients = dict(zip(wanted, differentiate(network.graph, loss, list(wanted.values())), strict=True))
    network.graph.set_outputs(list(gradients.values()), list(gradients))
    network.graph.erase_dead()
    if not gradients:
        text = "the network has no weights that training could change"
        raise CompileError(Diagnostic("model.untrainable", text, remedy="let some layer be trainable"))
    lower = _lowered(network, training=True, weighted=weighted, labels=labels)
    numbers = lower.graph.input(NUMBERS, DType.F32, (len(optimizer.step_numbers) + weighted,))
    for name, gradient in gradients.items():
        _update(lower, name, wanted[name], lower[gradient], numbers, optimizer, rows)
    before = lower.state(STEP)
    lower.leave(STEP, lower.scalar("add", before, imm=1))
    if lower.keys is not None:
        lower.graph.retype(lower.keys, TensorType(DType.I32, (lower.dropouts,)))
    return _finished(lower, dict(lower.records))


def evaluation(network: TrainableNetwork) -> TrainingStep:
    """The network as it is now: what it gives, the probabilities of classes or values."""
    kind = loss_of(network.loss)
    last = network.logits if kind.of_sums else network.graph.outputs[0]
    network.graph.set_outputs([last], ["result"])
    network.graph.erase_dead()
    lower = _lowered(network, training=False)
    name, made = RESULTS[kind](lower, lower[last], last)
    found = _finished(lower, {name: made})
    for node in found.graph.nodes():
        in_parts = isinstance(node.op, PadCodes)  # no instruction writes the whole of one
        if is_activation(node) and not in_parts:
            node.views = (SourceView(node.name, (), node.shape),)
    return found


def is_activation(node: Node) -> bool:
    """Whether codes of an evaluation are a value of the network: no input, no weights."""
    return node.type.dtype.is_code and not isinstance(node.op, (Input, QuantizeWeights))


def measurement(network: TrainableNetwork) -> TrainingStep:
    """The running statistics of the network as it is now, from one batch after another.

    The input MOVING says for every batch by what the statistics so far are multiplied, and by what its own.
    """
    network.graph.set_outputs([network.logits], ["logits"])
    network.graph.erase_dead()
    return _finished(_lowered(network, training=False, moving=True), {})


def _lowered(
    network: TrainableNetwork,
    *,
    training: bool,
    weighted: bool = False,
    moving: bool = False,
    labels: Node | None = None,
) -> Lowerer:
    """Every operation by its rule.

    Raises:
        CompileError: some have none; all are named.
    """
    source = network.graph
    lower = Lowerer(Graph(source.name, Stage.STEP), training, weighted)
    if loss_of(network.loss).of_sums:
        lower.logits = network.logits
    if moving:
        lower.moving = lower.graph.input(MOVING, DType.F32, (2,))
    aside = {n.id for n in (*network.parameters.values(), labels) if n is not None}
    refused: list[Diagnostic] = []
    for node in source.nodes():
        if node.is_constant or node.id in aside:
            continue
        if any(i.id not in lower.values for i in node.inputs if not (i.is_constant or i.id in aside)):
            continue  # an operand was refused
        if isinstance(node.op, Input):
            made = lower.graph.input(node.name, network.input_type, node.shape, node.loc)
            lower.values[node.id] = Fixed(made, None, network.input_c)
            continue
        rule = RULES.get(type(node.op))
        try:
            if rule is None:
                kinds = ", ".join(sorted({k.name.rpartition(".")[2] for k in RULES}))
                kind = node.op.name.rpartition(".")[2]
                lower.fail(node, f"'{node.name}' ({kind}) has no form in a step of training", kinds)
            lower.values[node.id] = rule(lower, node, node.op)
        except Unsupported as reason:
            refused.append(reason.diagnostic)
    if refused:
        raise CompileError(refused)
    return lower


def _update(
    lower: Lowerer, name: str, parameter: Node, sums: Fixed, numbers: Node, optimizer: Optimizer, rows: int
) -> None:
    share = np.float32(1) if lower.weighted else np.float32(1) / np.float32(rows)
    factor = np.float32(float(sums.c)) * share
    options = tuple(asdict(optimizer).items())
    names = [name, *(f"{name}/{slot}" for slot in optimizer.slots)]
    state = [lower.state(n, TensorType(DType.F32, parameter.shape)) for n in names]
    made = Update(float(factor), optimizer.name, options, lower.weighted)
    operands = (sums.node, lower.number(sums.exponent), numbers, *state)
    update = lower.add(made, operands, f"{name}/update", parameter)
    results = [lower.graph.element(update, i, f"{n}/new") for i, n in enumerate([*names, f"{name}/greatest"])]
    for state_name, result in zip(names, results, strict=False):
        lower.leave(state_name, result)
    if f"{name}/exponent" in lower.states:
        lower.state(f"{name}/next_exponent", NUMBER)
        next_exponent(lower, name, results[-1])


def _finished(lower: Lowerer, results: Mapping[str, Node]) -> TrainingStep:
    after = {s.name: s.after for s in lower.states.values() if s.after is not None}
    named = {**results, **after}
    lower.graph.set_outputs(list(named.values()), list(named))
    lower.graph.erase_dead()
    return TrainingStep(lower.graph, tuple(_stored(s, lower.groups) for s in lower.states.values()))


def _stored(state: StateTensor, groups: Mapping[str, int]) -> StateTensor:
    """A kernel of groups, and what an optimizer keeps for it, with its groups."""
    count = groups.get(state.name) or groups.get(state.name.rpartition("/")[0], 1)
    return replace(state, groups=count)
