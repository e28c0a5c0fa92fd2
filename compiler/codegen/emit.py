"""Emit: placed and ordered tile operations become a program with its interface and debug map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

import numpy as np

from compiler.errors import FitError
from compiler.ir.graph import Graph, Input, Node, SourceView
from compiler.ir.types import DType
from compiler.ops.shapes import Transpose
from compiler.schedule.segments.plan import Plan, host_value
from compiler.schedule.tile_graph import REGION, Buffer, Layer, Memory, Tensor, TileOp
from compiler.schedule.tokens import Synchronized
from isa.instructions.control import Halt
from isa.program import (
    MAIN_STREAM,
    Abi,
    Box,
    DebugMap,
    Interface,
    MapRow,
    Note,
    Operators,
    OpRow,
    Program,
    Symbol,
    TensorRow,
    float_bits,
    text_section,
)
from isa.soundness import HOST_CAP
from isa.spec import WORD_BYTES, Instruction
from isa.support.diagnostics import Diagnostic
from isa.support.locations import FileLoc, Loc, NodeLoc, leaves
from isa.support.records import replace
from isa.target import Target


def require_room(used: Mapping[Memory, int], target: Target) -> None:
    """The regions of a program must fit into the memory.

    Raises:
        FitError: they do not.
    """
    total = sum(used.get(memory, 0) for memory in REGION)
    allowed = min(target.dram.size, HOST_CAP)
    if total > allowed:
        raise FitError(
            Diagnostic(
                "fit.dram",
                f"the program needs {total} bytes of DRAM, {total - allowed} more than the "
                f"{allowed} available",
                remedy="choose a larger dram.size",
            )
        )


def resolved_stream(order: Sequence[TileOp]) -> list[Instruction]:
    """The instructions with their addresses, without tokens, halt at the end."""
    return [*(op.resolved() for op in order), Halt()]


def emit(
    graph: Graph,
    plan: Plan,
    order: Sequence[TileOp],
    synchronized: Synchronized,
    used: Mapping[Memory, int],
    target: Target,
    note: Note,
) -> Program:
    """The program of a scheduled graph."""
    buffers = plan.tiles.buffers()
    images = {
        memory: region_image(buffers, memory, used[memory]) for memory in (Memory.WEIGHTS, Memory.PARAMS)
    }
    return Program(
        target,
        tuple(synchronized.instructions),
        images[Memory.WEIGHTS],
        images[Memory.PARAMS],
        used[Memory.ARENA],
        used[Memory.INPUT],
        used[Memory.OUTPUT],
        _abi(graph, plan),
        DebugMap(tuple(map_rows(order, synchronized))),
        operators(graph, plan),
        tuple(symbols(plan, order, synchronized)),
        note,
        graph.scheme,
    )


def region_image(buffers: Sequence[Buffer], memory: Memory, size: int) -> bytes:
    """The bytes of a read-only region."""
    content = np.zeros(size, np.uint8)
    for buffer in buffers:
        if buffer.memory is memory:
            assert buffer.content is not None
            assert buffer.address is not None
            content[buffer.address : buffer.address + buffer.size] = np.frombuffer(buffer.content, np.uint8)
    return content.tobytes()


# --- interface -----------------------------------------------------------------------------------


def _abi(graph: Graph, plan: Plan) -> Abi:
    """An output that is an input has the row of that, under its own name."""
    inputs = tuple(_input(node, given) for node, given in plan.inputs)
    named = {row.name: row for row in inputs}
    outputs = (
        replace(named[node.name], name=name)
        if isinstance(node.op, Input)
        else _output(name, node, plan.outputs[node.id])
        for name, node in zip(graph.output_names, graph.outputs, strict=True)
    )
    return Abi(inputs, tuple(outputs))


def _input(node: Node, given: Tensor | Buffer) -> Interface:
    """`node` quantizes a graph input or the host's transpose of one, or is an input that nothing reads."""
    if isinstance(given, Buffer):
        return _untouched(node.name, node, given)
    host, (source,) = host_value(node), node.inputs
    perm = source.op.perm if isinstance(source.op, Transpose) else tuple(range(len(source.shape)))
    return _interface(host.name, host, node, given, perm)


def _output(name: str, node: Node, given: Tensor | Buffer) -> Interface:
    """`node` gives out the result of a layer, is a transpose of that which the host makes, or a constant."""
    if isinstance(given, Buffer):
        return _untouched(name, node, given)
    if not isinstance(node.op, Transpose):
        return _interface(name, node, node.inputs[0], given, tuple(range(len(node.shape))))
    back = tuple(int(p) for p in np.argsort(node.op.perm))
    return _interface(name, node, node.inputs[0].inputs[0], given, back)


def _untouched(name: str, node: Node, home: Buffer) -> Interface:
    """An array of the host's that lies on the device as it is."""
    assert home.address is not None
    dtype, region = node.type.dtype.host_name, REGION[home.memory]
    perm, shape = tuple(range(len(node.shape))), (1, 1, 1, node.type.elements)
    return Interface(
        name, dtype, node.shape, dtype, shape, perm, home.size, None, 0, region, home.address, home.size
    )


def _interface(name: str, host: Node, device: Node, tensor: Tensor, perm: tuple[int, ...]) -> Interface:
    assert tensor.home.address is not None
    return Interface(
        name,
        host.type.dtype.host_name,
        host.shape,
        _device_dtype(device),
        tensor.elements,
        perm,
        tensor.shape[3],
        float_bits(device.quant.scale) if host.type.dtype is DType.F32 else None,
        0 if device.type.quant is None else device.quant.zero_point,
        REGION[tensor.home.memory],
        tensor.home.address,
        tensor.home.size,
        tensor.id,
    )


def _device_dtype(node: Node) -> str:
    """The type of a value's elements on the device: indices are int32 there."""
    return (DType.I32 if node.type.dtype is DType.I64 else node.type.dtype).host_name


# --- debug map -----------------------------------------------------------------------------------


def map_rows(order: Sequence[TileOp], synchronized: Synchronized) -> list[MapRow]:
    """Rows of instructions that belong together; one that completes a box of a tensor stands alone."""
    rows: list[MapRow] = []
    for pc, index in enumerate(synchronized.origin):
        if index >= len(order):
            continue  # halt
        op = order[index]
        carrier = synchronized.instructions[pc].mnemonic != op.instr.mnemonic
        mark = None if carrier else op.stored
        if rows and mark is None and rows[-1].tensor is None and _continues(rows[-1], op, pc):
            last = rows[-1]
            rows[-1] = MapRow(last.first, last.count + 1, 0, last.op, last.tile, last.phase)
        else:
            rows.append(
                MapRow(
                    pc,
                    1,
                    0,
                    op.layer,
                    op.tile,
                    op.phase,
                    mark.tensor if mark else None,
                    mark.box if mark else None,
                    mark.operand if mark else None,
                )
            )
    return rows


def _continues(row: MapRow, op: TileOp, pc: int) -> bool:
    return (row.op, row.tile, row.phase) == (op.layer, op.tile, op.phase) and row.first + row.count == pc


def operators(graph: Graph, plan: Plan) -> Operators:
    """The rows of layers and tensors."""
    return Operators(tuple(layer_row(layer) for layer in plan.tiles.layers), tuple(_tensor_rows(graph, plan)))


def layer_row(layer: Layer) -> OpRow:
    """The row of a layer."""
    return OpRow(
        layer.id,
        layer.name,
        *_source(layer),
        layer.outputs,
        _places(layer.loc),
        layer.bound.mx_cycles,
        layer.bound.vx_lanes,
        layer.bound.dram_bytes,
    )


def tensor_row(number: int, node: Node, shape: tuple[int, ...]) -> TensorRow:
    """The row of a device tensor."""
    scale = None if node.type.quant is None else float_bits(node.quant.scale)
    zero = 0 if node.type.quant is None else node.quant.zero_point
    return TensorRow(number, "", _device_dtype(node), shape, (), scale, zero)


def _source(layer: Layer) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and operators of the source nodes; where the source has none, the operation."""
    nodes = [leaf for leaf in leaves(layer.loc) if isinstance(leaf, NodeLoc)]
    return tuple(n.node for n in nodes), tuple(n.op_type for n in nodes) or (layer.kind,)


def _places(loc: Loc) -> tuple[str, ...]:
    """Places in files, without folders: where a file lies must not change the binary."""
    places: list[str] = []
    for leaf in leaves(loc):
        if isinstance(leaf, NodeLoc):
            places.append(f"{PurePath(leaf.model).name}: {leaf.node} ({leaf.op_type})")
        elif isinstance(leaf, FileLoc):
            places.append(FileLoc(PurePath(leaf.path).name, leaf.line, leaf.column).describe())
    return tuple(places)


def view_row(number: int, node: Node, view: SourceView, held_by: int, box: Box | None) -> TensorRow:
    """The row of a source tensor that a device tensor holds, or a box of one."""
    row = tensor_row(number, node, view.shape)
    return replace(row, name=view.name, steps=view.steps, alias_of=held_by, box=box)


def _tensor_rows(graph: Graph, plan: Plan) -> list[TensorRow]:
    """A row for every device tensor, then an alias for every further source tensor that it holds."""
    rows: list[TensorRow] = []
    held: set[int] = set()
    next_id = len(plan.tiles.tensors)
    for node in graph.nodes():
        if node.id not in plan.views or node.is_constant:
            continue
        tensor = plan.views[node.id].tensor
        box = None
        if tensor.part_of is not None:
            ends = (s + extent for s, extent in zip(tensor.start, tensor.shape, strict=True))
            tensor, box = tensor.part_of, tuple(zip(tensor.start, ends, strict=True))
        if box is None and tensor.id not in held:
            held.add(tensor.id)
            rows.append(tensor_row(tensor.id, node, tensor.elements))
        for view in node.views:
            rows.append(view_row(next_id, node, view, tensor.id, box))
            next_id += 1
    return rows


def symbols(
    plan: Plan, order: Sequence[TileOp], synchronized: Synchronized, stream: str = MAIN_STREAM
) -> list[Symbol]:
    """A name for every tensor that is no part of another, one for the first instruction of every layer."""
    found: list[Symbol] = []
    text = text_section(stream)
    for tensor in plan.tiles.tensors:
        home = tensor.home
        assert home.address is not None
        if tensor.part_of is not None:
            continue
        section = "" if home.memory is Memory.SPM else REGION[home.memory].section
        found.append(Symbol(_symbol(tensor.name), section, home.address, home.size))
    names = {layer.id: layer.name for layer in plan.tiles.layers}
    seen: set[int] = set()
    for pc, index in enumerate(synchronized.origin):
        if index < len(order) and order[index].layer not in seen:
            seen.add(order[index].layer)
            found.append(Symbol(_symbol(f"layer.{names[order[index].layer]}"), text, pc * WORD_BYTES, 0))
    return found


def _symbol(name: str) -> str:
    """A name as a string table can hold it: NUL ends one there."""
    return name.replace("\0", "\\0")
