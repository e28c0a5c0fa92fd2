"""Tiles of updates: some rows of a parameter, its slots and its gradient at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.types import DType
from compiler.schedule.builder import Span, View, Views
from compiler.schedule.step.builder import MAX_WORD_ROWS, Constant, Row, StepBuilder, Words, gradual, pieces
from compiler.schedule.step.rows import WORD, Layout, StateRows
from compiler.schedule.step.tiles.dense import weight_rows
from compiler.schedule.step.tiles.depthwise import is_depthwise
from compiler.schedule.step.tiles.sums import convolution_rows
from compiler.schedule.step.tiles.wide import BLOCKS
from compiler.schedule.tile_graph import Ref, Tensor
from compiler.train.formula import GRADIENT, WEIGHT, Formula, formula_of
from compiler.train.integer.convolution import Conv2dWeightSums
from compiler.train.integer.dense import DenseWeightSums
from compiler.train.integer.update import Update
from isa.instructions.vector_words import Function32

F = Function32


@gradual(Update)
def update_tiles(
    s: StepBuilder, node: Node, view: Views, out: Tensor, budget: int
) -> Sequence[Callable[[], None]]:
    """Load, make the gradient, compute the formula step by step, store."""
    del view, out, budget
    operation = node.op
    assert isinstance(operation, Update)
    rows = s.layouts[node.inputs[3].id]
    formula = formula_of(operation.chosen)
    unit: list[Ref] = []

    def tile(part: Span) -> None:
        s.tile = (part.start,)
        if not unit:
            unit.append(_unit(s, node, operation))
        gradient = _gradient(s, node.inputs[0], rows, part)
        _update(s, node, operation, formula, gradient, unit[0], part)

    return [
        partial(tile, part) for part in _parts(s, node.inputs[0], rows, formula, len(operation.chosen.slots))
    ]


def _unit(s: StepBuilder, node: Node, operation: Update) -> Ref:
    """A row of what a sum of 1 is in the gradient."""
    unit = s.unit(s.numbers.read(node.inputs[1]), operation.factor)
    if operation.weighted:
        share = s.number_given(node.inputs[2], len(operation.chosen.step_numbers))
        s.words(F.FMUL, unit, unit, share, rows=1)
    return unit


def _parts(s: StepBuilder, sums: Node, rows: StateRows, formula: Formula, slots: int) -> list[Span]:
    """Rows that are updated together: as many as there is room for."""
    blocks = slots + 2 + _most_alive(formula) + (BLOCKS if sums.type.dtype is DType.I64 else 0)
    most = min(max(s.target.acc.rows // s.choices.update_share // blocks, 1), MAX_WORD_ROWS)
    if rows.layout is Layout.TURNED:  # whole groups
        each = rows.each
        return [Span(p.start * each, p.stop * each) for p in pieces(rows.groups, max(most // each, 1))]
    if is_depthwise(sums):  # whole taps
        each = rows.groups
        return [Span(p.start * each, p.stop * each) for p in pieces(rows.each, max(most // each, 1))]
    return pieces(rows.count, most)


def _most_alive(formula: Formula) -> int:
    """Results that are needed at the same time, at most: each takes the place of an operand where it can."""
    return len(_Places(formula).rows)


def _gradient(s: StepBuilder, sums: Node, rows: StateRows, part: Span) -> Ref:
    """The sums of some rows as float32: of those that there are, or made now."""
    if sums.id in s.totals:
        return s.totals[sums.id].real(s, part.start, part.extent)

    def operands(index: int) -> View:
        return s.view_of(sums.inputs[index])

    if isinstance(sums.op, Conv2dWeightSums):
        return convolution_rows(s, sums, operands, rows, part).real(s, 0, part.extent)
    if isinstance(sums.op, DenseWeightSums):
        made = Ref(weight_rows(s, sums, operands, rows, part))
    else:
        made = Ref(s.sums[sums.id], part.start)
    s.words(F.I2F, made, made, rows=part.extent)
    return made


class _Places:
    """Which block of rows every result takes: that of an operand that no later step reads, or one more."""

    def __init__(self, formula: Formula) -> None:
        last = formula.last_uses()
        self.place: dict[str, str] = {}
        self.rows: list[str] = []
        """Blocks beside those of weight, slots and gradient."""
        free: list[str] = []
        numbers = set(formula.numbers)
        for index, step in enumerate(formula.steps):
            operands = [n for n in (step.a, step.b) if n is not None and n not in numbers]
            ending = [self.place.get(n, n) for n in dict.fromkeys(operands) if last[n] == index]
            if ending:
                self.place[step.result] = ending[0]
                free += ending[1:]
            elif free:
                self.place[step.result] = free.pop()
            else:
                self.rows.append(f"rows{len(self.rows)}")
                self.place[step.result] = self.rows[-1]


def _update(
    s: StepBuilder, node: Node, operation: Update, formula: Formula, gradient: Ref, unit: Ref, part: Span
) -> None:
    """The formula on some rows."""
    chosen, state = operation.chosen, node.inputs[3:]
    blocks: dict[str, Ref] = {GRADIENT: gradient}
    for name, tensor in zip((WEIGHT, *chosen.slots), state, strict=True):
        blocks[name] = Ref(s.rows_of(name, part.extent))
        for rows, words in _places(s, node, tensor, part):
            s.load_words(rows, blocks[name].shifted(words.start), words.extent, _pitch(s, node))
    places = _Places(formula)
    blocks |= {name: Ref(s.rows_of(name, part.extent)) for name in places.rows}
    s.words(F.FMUL, gradient, gradient, Row(unit), rows=part.extent)
    constants = {name: float(np.float32(v)) for name, v in chosen.all_constants().items()}
    numbers = node.inputs[2]

    def operand(name: str) -> Words:
        if name in constants:
            return Constant(constants[name])
        if name in chosen.step_numbers:
            return s.number_given(numbers, chosen.step_numbers.index(name))
        return blocks[places.place.get(name, name)]

    last = {result: name for name, result in formula.results.items()}
    for step in formula.steps:
        observer = s.seen(node, len(state)) if last.get(step.result) == WEIGHT else None
        a, other = operand(step.a), None if step.b is None else operand(step.b)
        d = blocks[places.place[step.result]]
        s.words(step.function, d, a, other, rows=part.extent, observer=observer)
    for name, tensor in zip((WEIGHT, *chosen.slots), state, strict=True):
        block = blocks[places.place.get(formula.results[name], formula.results[name])]
        for rows, words in _places(s, node, tensor, part):
            s.store_words(block.shifted(words.start), rows, words.extent, _pitch(s, node))


def _places(s: StepBuilder, node: Node, tensor: Node, part: Span) -> list[tuple[Ref, Span]]:
    """Where rows of a tensor of the state lie, and which of the part they are.

    Of a depthwise kernel the sums lie tap after tap, the state group after group.
    """
    home, row = s.homes[tensor.id], s.cols * WORD
    if not is_depthwise(node.inputs[0]):
        return [(home.shifted(part.start * row), Span(0, part.extent))]
    groups = s.layouts[node.inputs[3].id].groups
    taps = range(part.start // groups, part.stop // groups)
    return [
        (home.shifted(tap * row), Span(tap * groups - part.start, (tap + 1) * groups - part.start))
        for tap in taps
    ]


def _pitch(s: StepBuilder, node: Node) -> int:
    """Rows of the state from one that is taken to the next."""
    return s.layouts[node.inputs[3].id].each if is_depthwise(node.inputs[0]) else 1
