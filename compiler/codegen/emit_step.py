"""Emit a step: a placed and ordered plan becomes a stream of a training binary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.codegen.emit import map_rows, operators, region_image, symbols
from compiler.ir.graph import Graph, Node
from compiler.ir.types import DType
from compiler.schedule.scheduler import Schedule
from compiler.schedule.step.rows import StateBuffers
from compiler.schedule.tile_graph import REGION, Buffer, Memory, Tensor
from compiler.schedule.tokens import Synchronized
from compiler.train.network import host_shape
from isa.program import Abi, DebugMap, Interface, Note, Operators, Program, float_bits
from isa.support.records import Frozen, replace
from isa.target import Target


def emit_step(
    graph: Graph,
    schedule: Schedule,
    synchronized: Synchronized,
    state: bytes,
    target: Target,
    note: Note,
    stream: str,
    real: Mapping[str, RealInput],
) -> Program:
    """The program of a stream."""
    plan, used = schedule.plan, schedule.used
    buffers = plan.tiles.buffers()
    images = {m: region_image(buffers, m, used[m]) for m in (Memory.WEIGHTS, Memory.PARAMS)}
    rows = tuple(map_rows(schedule.order, synchronized))
    stored = {row.tensor for row in rows if row.tensor is not None}
    named = operators(graph, plan)
    return Program(
        target,
        tuple(synchronized.instructions),
        images[Memory.WEIGHTS],
        images[Memory.PARAMS],
        used[Memory.ARENA],
        used[Memory.INPUT],
        used[Memory.OUTPUT],
        _abi(graph, schedule, real),
        DebugMap(rows),
        Operators(named.ops, tuple(t for t in named.tensors if {t.id, t.alias_of} & stored)),
        tuple(symbols(plan, schedule.order, synchronized, stream)),
        note,
        state=state,
        stream=stream,
    )


def state_image(place: StateBuffers, values: Mapping[str, NDArray[Any]]) -> bytes:
    """The state region that holds tensors and numbers, by name."""
    content = np.zeros(place.size, np.uint8)
    for name, offset in place.numbers.items():
        content[offset : offset + 4] = np.asarray(values[name], "<i4").reshape(1).view(np.uint8)
    for name, rows in place.layouts.items():
        buffer = place.buffers[name]
        assert buffer.address is not None
        content[buffer.address : buffer.address + buffer.size] = (
            rows.pack(values[name]).view(np.uint8).ravel()
        )
    return content.tobytes()


def state_values(
    place: StateBuffers, content: NDArray[np.uint8], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """Tensors and numbers of a state region, by name."""
    found: dict[str, NDArray[Any]] = {}
    for name, offset in place.numbers.items():
        found[name] = content[offset : offset + 4].copy().view("<i4").reshape(())
    for name, rows in place.layouts.items():
        buffer = place.buffers[name]
        assert buffer.address is not None
        words = content[buffer.address : buffer.address + buffer.size].copy().view("<f4")
        found[name] = rows.unpack(words, shapes[name])
    return found


class RealInput(Frozen):
    """What the host has as real numbers: what its codes stand for, how its axes are permuted."""

    scale: float
    perm: tuple[int, ...]


def _real_interface(node: Node, given: Tensor | Buffer, real: RealInput, name: str) -> Interface:
    """Quantized and permuted by the host."""
    plain = _interface(name, node, given)
    return replace(
        plain,
        dtype=DType.F32.host_name,
        shape=host_shape(node.shape, real.perm),
        perm=real.perm,
        scale_bits=float_bits(real.scale),
    )


def _abi(graph: Graph, schedule: Schedule, real: Mapping[str, RealInput]) -> Abi:
    plan = schedule.plan
    inputs = tuple(
        _real_interface(node, given, real[node.name], node.name)
        if node.name in real
        else _interface(node.name, node, given)
        for node, given in plan.inputs
    )
    named = zip(graph.output_names, graph.outputs, strict=True)
    outputs = (
        _real_interface(node, plan.outputs[node.id], real[name], name)
        if name in real
        else _interface(name, node, plan.outputs[node.id])
        for name, node in named
        if node.id in plan.outputs
    )
    return Abi(inputs, tuple(outputs))


def _interface(name: str, node: Node, given: Tensor | Buffer) -> Interface:
    """An array that lies on the device as it is."""
    home = given if isinstance(given, Buffer) else given.home
    assert home.address is not None
    dtype, region = node.type.dtype.host_name, REGION[home.memory]
    shape = given.elements if isinstance(given, Tensor) else (1, 1, 1, node.type.elements)
    pixel = shape[3] * node.type.dtype.numpy.itemsize
    perm = tuple(range(len(node.shape)))
    return Interface(
        name, dtype, node.shape, dtype, shape, perm, pixel, None, 0, region, home.address, home.size
    )
