"""Tiles of copies between pixels and channels, and of gathers along an axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from compiler.ir.graph import Node
from compiler.ops.depth_to_space import DepthToSpace, SpaceToDepth, Take
from compiler.schedule.builder import Builder, Span, View, Views, spans, stored, tiles_of
from compiler.schedule.tile_graph import Piece, Tensor
from compiler.schedule.tiles.boxes import SLACK, tiles
from compiler.schedule.tiles.limits import does_not_fit
from compiler.schedule.tiles.moves import MAX_MOVE, MAX_MOVE_PITCH, move
from isa.instructions.vector import VectorMove
from isa.support.records import Frozen

MAX_PLANES: Final = MAX_MOVE[2]
CHANNELS: Final = 3
"""The axis of channels."""


@tiles_of(DepthToSpace)
def plan_depth_to_space(
    b: Builder, node: Node, operation: DepthToSpace, view: Views, out: Tensor, budget: int
) -> None:
    """Row by row of the result: channels, groups, columns of a block, blocks."""
    x = view(0)
    bh, bw = operation.block
    n, h, w, c = x.shape
    width = _columns(node, w, c, c // bh, budget)
    rest = c // (operation.groups * bh * bw)
    for image in range(n):
        for row in range(h):
            for columns in spans(w, width):
                source = b.fetch(x, image, Span(row, row + 1), columns, Span(0, c), "input")
                for by in range(bh):
                    place = (
                        Span(row * bh + by, row * bh + by + 1),
                        Span(columns.start * bw, columns.stop * bw),
                    )
                    b.tile = (image, place[0].start, place[1].start)
                    whole = Span(0, out.shape[3])
                    target = b.result(out, image, *place, whole, "output")
                    levels = [
                        (operation.groups, bh * bw * rest, rest),
                        (bw, rest, target.pixel_pitch),
                        (columns.extent, source.pixel_pitch, bw * target.pixel_pitch),
                    ]
                    bind = {"src": source.ref.shifted(by * bw * rest), "dst": target.ref}
                    b.emit(_levels(rest, levels), bind, stored=stored(out, image, *place, whole, "dst"))
                    b.deliver(out, target, image, *place, whole)


@tiles_of(SpaceToDepth)
def plan_space_to_depth(
    b: Builder, node: Node, operation: SpaceToDepth, view: Views, out: Tensor, budget: int
) -> None:
    """Row by row of the result: channels, columns and rows of a block, blocks."""
    x = view(0)
    bh, bw = operation.block
    n, h, w, channels = out.shape
    c = x.shape[3]
    width = _columns(node, w, channels, channels, budget)
    whole = Span(0, channels)
    for image in range(n):
        for row in range(h):
            for columns in spans(w, width):
                b.tile = (image, row, columns.start)
                box = Span(row * bh, (row + 1) * bh), Span(columns.start * bw, columns.stop * bw), Span(0, c)
                source = b.fetch(x, image, *box, "input")
                rows = Span(row, row + 1)
                target = b.result(out, image, rows, columns, whole, "output")
                levels = [
                    (bw, source.pixel_pitch, c),
                    (bh, source.row_pitch, bw * c),
                    (columns.extent, bw * source.pixel_pitch, target.pixel_pitch),
                ]  # in the order of the result, in which a run is watched
                bind = {"src": source.ref, "dst": target.ref}
                mark = stored(out, image, rows, columns, whole, "dst")
                b.emit(_levels(c, levels), bind, stored=mark)
                b.deliver(out, target, image, rows, columns, whole)


def _columns(node: Node, extent: int, taken: int, given: int, budget: int) -> int:
    """How many blocks of a row a tile has: `taken` and `given` bytes each in the scratchpad."""
    width = min(
        extent, (budget - SLACK) // (taken + given), MAX_PLANES, max(MAX_MOVE_PITCH // max(taken, given), 1)
    )
    if width < 1:
        raise does_not_fit(node, taken + given + SLACK, budget)
    return width


def _levels(run: int, levels: Sequence[tuple[int, int, int]]) -> VectorMove:
    return move(run, [level for level in levels if level[0] > 1])


class Run(Frozen):
    """Consecutive elements of a gather: each `repeat` times, from `start` on, at a distance of `step`."""

    at: int
    start: int
    count: int
    step: int
    repeat: int


def runs(indices: Sequence[int]) -> Iterator[Run]:
    """A row of indices as few runs: equal repetition, or arithmetic progression."""
    position = 0
    while position < len(indices):
        first = indices[position]
        repeat = _length(indices, position, 0)
        count = 1
        while _repeats(indices, position + count * repeat, first + count, repeat):
            count += 1
        steps = 1
        if repeat == 1 and position + 1 < len(indices):
            step = indices[position + 1] - first
            steps = _length(indices, position, step)
            if steps > count:
                yield Run(position, first, steps, step, 1)
                position += steps
                continue
        yield Run(position, first, count, 1, repeat)
        position += count * repeat


def _length(indices: Sequence[int], position: int, step: int) -> int:
    length = 1
    while (
        position + length < len(indices)
        and indices[position + length] - indices[position + length - 1] == step
    ):
        length += 1
    return length


def _repeats(indices: Sequence[int], position: int, value: int, repeat: int) -> bool:
    part = indices[position : position + repeat]
    following = indices[position + repeat : position + repeat + 1]
    return len(part) == repeat and all(v == value for v in part) and list(following) != [value]


@tiles_of(Take)
def plan_take(b: Builder, node: Node, operation: Take, view: Views, out: Tensor, budget: int) -> None:
    """Run after run of the indices; repetitions and steps are pitches."""
    x, axis = view(0), operation.axis + 4 - len(node.shape)
    for run in runs(operation.indices):
        for part in _parts(run, axis):
            _plan_run(b, node, x, out, axis, part, budget)


def _parts(run: Run, axis: int) -> Iterator[Run]:
    """A run cut where it is longer than a level of a copy."""
    limit = MAX_PLANES if axis else 1
    for span in spans(run.count, limit):
        for again in spans(run.repeat, limit):
            repeated = again.extent if run.count == 1 or again.extent == run.repeat else 1
            yield Run(
                run.at + span.start * run.repeat + again.start,
                run.start + span.start * run.step,
                span.extent,
                run.step,
                repeated,
            )


def _plan_run(b: Builder, node: Node, x: View, out: Tensor, axis: int, run: Run, budget: int) -> None:
    """A run in tiles: along the axis it is whole."""
    ends = run.start, run.start + (run.count - 1) * run.step
    taken = Span(min(ends), max(ends) + 1)
    given = Span(run.at, run.at + run.count * run.repeat)
    extents = [given.extent if i == axis else d for i, d in enumerate(out.shape)]
    share = taken.extent / given.extent

    def needed(th: int, tw: int, tc: int) -> int:
        box = th * tw * tc
        return (0 if x.tensor.resident else int(box * max(share, 1)) + 1) + (0 if out.resident else box)

    def allowed(th: int, tw: int, tc: int) -> bool:
        size = (1, th, tw, tc)
        whole = axis == 0 or size[axis] == extents[axis]
        if axis == CHANNELS and run.repeat > 1 and run.count > 1 and th > 1 and tw > 1:
            return False  # one level too many
        return (
            whole
            and max(th, tw) <= MAX_PLANES
            and tw * tc * max(share, 1) <= MAX_MOVE_PITCH
            and tc <= MAX_MOVE_PITCH
            and (run.count == 1 or abs(run.step) * _pitch(x, axis, taken, tw, tc) <= MAX_MOVE_PITCH)
        )

    def fits(th: int, tw: int, tc: int) -> bool:
        return allowed(th, tw, tc) and needed(th, tw, tc) + SLACK <= budget

    size = _fitting(extents, axis, fits)
    if size is None:
        halves = _halves(run)
        if len(halves) == 1:
            raise does_not_fit(node, needed(1, 1, 1) + SLACK, budget)
        for half in halves:
            _plan_run(b, node, x, out, axis, half, budget)
        return
    for n, rs, cs, ch in tiles(b, (extents[0], extents[1], extents[2], extents[3]), size):
        boxes = [Span(n, n + 1), rs, cs, ch]
        box_in = [taken if i == axis else s for i, s in enumerate(boxes)]
        box_out = [given if i == axis else s for i, s in enumerate(boxes)]
        if axis == 0:
            box_in[0] = Span(run.start + n // run.repeat * run.step, 0)
            box_out[0] = Span(run.at + n, run.at + n + 1)
        source = b.fetch(x, box_in[0].start, box_in[1], box_in[2], box_in[3], "input")
        place = box_out[0].start, box_out[1], box_out[2], box_out[3]
        target = b.result(out, *place, "output")
        instr, first = _gather(run, axis, box_out, source, target)
        bind = {"src": source.ref.shifted(first), "dst": target.ref}
        b.emit(instr, bind, stored=stored(out, *place, "dst"))
        b.deliver(out, target, *place)


def _pitch(x: View, axis: int, taken: Span, tw: int, tc: int) -> int:
    """Bytes of the operand from one element along an axis to the next."""
    _, _, width, depth = x.shape
    if not x.tensor.resident:
        width, depth = (taken.extent if i == axis else n for i, n in ((2, tw), (CHANNELS, tc)))
    return {0: 0, 1: width * depth, 2: depth}.get(axis, 1)


def _fitting(
    extents: Sequence[int], axis: int, fits: Callable[[int, int, int], bool]
) -> tuple[int, int, int] | None:
    """The largest (rows, columns, channels) that fits, whole along the axis; None where none does."""
    size = list(extents[1:])
    for free in (i for i in range(3) if i + 1 != axis):
        for pieces in range(1, size[free] + 1):
            part = -(-extents[free + 1] // pieces)
            if pieces == 1 or part < size[free]:
                size[free] = part
                if fits(*size):
                    return size[0], size[1], size[2]
        size[free] = 1
    return (size[0], size[1], size[2]) if fits(*size) else None


def _halves(run: Run) -> list[Run]:
    """A run in two; the run itself where it is of one element."""
    if run.count > 1:
        first = run.count // 2
        at, start = run.at + first * run.repeat, run.start + first * run.step
        rest = Run(at, start, run.count - first, run.step, run.repeat)
        return [Run(run.at, run.start, first, run.step, run.repeat), rest]
    if run.repeat > 1:
        first = run.repeat // 2
        rest = Run(run.at + first, run.start, 1, run.step, run.repeat - first)
        return [Run(run.at, run.start, 1, run.step, first), rest]
    return [run]


def _gather(run: Run, axis: int, box: Sequence[Span], source: Piece, target: Piece) -> tuple[VectorMove, int]:
    """The copy of a tile of a run, and the byte of the source at which it begins."""
    pitches = [
        (0, 0),
        (source.row_pitch, target.row_pitch),
        (source.pixel_pitch, target.pixel_pitch),
        (1, 1),
    ]
    levels: list[tuple[int, int, int]] = []
    for i in (3, 2, 1):
        from_, to = pitches[i]
        if i != axis:
            levels.append((box[i].extent, from_, to))
            continue
        levels += [(run.repeat, 0, to), (run.count, run.step * from_, run.repeat * to)]
    first = (run.count - 1) * -run.step * pitches[axis][0] if run.step < 0 and axis else 0
    levels = [level for level in levels if level[0] > 1]
    run_length = levels.pop(0)[0] if levels and levels[0][1:] == (1, 1) else 1
    return move(run_length, levels), first
