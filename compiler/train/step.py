"""The graph of a step: forward, errors, gradients, updates, and what the step leaves for the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

import compiler.train.integer
import compiler.train.optimizers  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.errors import CompileError, Unsupported
from compiler.ir.graph import Graph, Input, Node
from compiler.ir.stage import Stage
from compiler.ir.types import DType, TensorType
from compiler.train.gradient import differentiate
from compiler.train.integer.loss import StepSoftmax
from compiler.train.integer.update import Update
from compiler.train.integer.weights import next_exponent
from compiler.train.losses.categorical_crossentropy import CategoricalCrossentropy
from compiler.train.lowering import RULES, Fixed, Lowerer, State
from compiler.train.optimizers.optimizer import Optimizer
from compiler.train.scalars import NUMBER
from isa.support.diagnostics import Diagnostic
from isa.support.records import Frozen, asdict

NUMBERS = "numbers"
"""The input with what the host computes for a step."""
STEP = "step"
"""The state that counts the steps."""


class Network(Frozen):
    """A float network to be trained: its inputs, the sums before its loss, its parameters.

    `input_type` and `input_c` say what the codes of inputs are: q * c.
    """

    graph: Graph
    logits: Node
    parameters: Mapping[str, Node]
    frozen: frozenset[str] = frozenset()
    """Parameters that training leaves as they are."""
    input_type: DType = DType.U8
    input_c: Fraction = Fraction(1, 255)


class Step(Frozen):
    """A step as a graph, and its state in order."""

    graph: Graph
    states: Sequence[State]


def training_step(network: Network, optimizer: Optimizer) -> Step:
    """A step of training: the graph of the network is extended by its loss and the way back.

    Raises:
        CompileError: an operation that no step computes, or that has no gradient.
    """
    rows = network.logits.shape[0]
    labels = network.graph.input("labels", DType.I32, (rows,))
    loss = network.graph.add(CategoricalCrossentropy(), [network.logits, labels], name="loss")
    wanted = {n: p for n, p in network.parameters.items() if n not in network.frozen}
    gradients = dict(zip(wanted, differentiate(network.graph, loss, list(wanted.values())), strict=True))
    network.graph.set_outputs(list(gradients.values()), list(gradients))
    network.graph.erase_dead()
    l = _lowered(network, training=True)
    numbers = l.graph.input(NUMBERS, DType.F32, (len(optimizer.step_numbers),))
    for name, gradient in gradients.items():
        _update(l, name, wanted[name], l[gradient], numbers, optimizer, rows)
    before = l.state(STEP)
    l.leave(STEP, l.scalar("add", before, imm=1))
    return _finished(l, dict(l.records))


def evaluation(network: Network) -> Step:
    """The network as it is now: the probabilities of its classes."""
    l = _lowered(network, training=False)
    value: Fixed = l[network.logits]
    made = StepSoftmax(float(value.c))
    probabilities = l.add(made, (value.node, l.number(value.exponent)), "probabilities", network.logits)
    return _finished(l, {"probabilities": probabilities})


def _lowered(network: Network, *, training: bool) -> Lowerer:
    """Every operation by its rule.

    Raises:
        CompileError: some have none; all are named.
    """
    source = network.graph
    l = Lowerer(Graph(source.name, Stage.STEP), training, network.logits)
    parameters = {p.id for p in network.parameters.values()}
    refused: list[Diagnostic] = []
    for node in source.nodes():
        if node.is_constant or node.id in parameters or node.name == "labels":
            continue
        if any(i.id not in l.values for i in node.inputs if not _is_parameter(i, parameters)):
            continue  # an operand was refused
        if isinstance(node.op, Input):
            made = l.graph.input(node.name, network.input_type, node.shape, node.loc)
            l.values[node.id] = Fixed(made, None, network.input_c)
            continue
        rule = RULES.get(type(node.op))
        try:
            if rule is None:
                kinds = sorted({k.name.rpartition(".")[2] for k in RULES})
                l.fail(node, f"'{node.name}' ({node.op.name.rpartition('.')[2]}) has no form in a step of "
                       "training", ", ".join(kinds))  # fmt: skip
            l.values[node.id] = rule(l, node, node.op)
        except Unsupported as reason:
            refused.append(reason.diagnostic)
    if refused:
        raise CompileError(refused)
    return l


def _is_parameter(node: Node, parameters: set[int]) -> bool:
    return node.is_constant or node.id in parameters or node.name == "labels"


def _update(
    l: Lowerer, name: str, parameter: Node, sums: Fixed, numbers: Node, optimizer: Optimizer, rows: int
) -> None:
    factor = np.float32(float(sums.c)) * (np.float32(1) / np.float32(rows))
    options = tuple(asdict(optimizer).items())
    names = [name, *(f"{name}/{slot}" for slot in optimizer.slots)]
    state = [l.state(n, TensorType(DType.F32, parameter.shape)) for n in names]
    made = Update(float(factor), optimizer.name, options)
    operands = (sums.node, l.number(sums.exponent), numbers, *state)
    update = l.add(made, operands, f"{name}/update", parameter)
    results = [l.graph.element(update, i, f"{n}/new") for i, n in enumerate([*names, f"{name}/greatest"])]
    for state_name, result in zip(names, results, strict=False):
        l.leave(state_name, result)
    if f"{name}/exponent" in l.states:
        l.state(f"{name}/next_exponent", NUMBER)
        next_exponent(l, name, results[-1])


def _finished(l: Lowerer, results: Mapping[str, Node]) -> Step:
    after = {s.name: s.after for s in l.states.values() if s.after is not None}
    named = {**results, **after}
    l.graph.set_outputs(list(named.values()), list(named))
    l.graph.erase_dead()
    return Step(l.graph, tuple(l.states.values()))
