"""Slices, concatenations and pads in place: the same bits as copies, and as ONNX Runtime; fewer cycles."""

from __future__ import annotations

import numpy as np
import pytest

from compiler import driver
from compiler.codegen import emit
from compiler.ir.graph import Graph, Node
from compiler.ir.op import ShapeError
from compiler.ir.types import DType, Quant
from compiler.ops.add import Add
from compiler.ops.concat import Concat
from compiler.ops.conv2d import Conv2d
from compiler.ops.max_pool import MaxPool
from compiler.ops.slices import Pad, part
from compiler.quantize.scheme import Scheme
from compiler.schedule import builder
from compiler.schedule.options import schedule_options
from compiler.schedule.segments import subtensors as parts
from compiler.schedule.segments.plan import Plan, plan
from compiler.schedule.tile_graph import Tensor
from isa.program import TensorRow
from isa.support.records import replace
from isa.target import load_target
from isa.timing.profile import profile
from tests.networks import random_inputs
from x1 import api
from x1.lab.verification import verify

CODES = Quant((float(np.float32(0.03)),), -3)
"""Of every tensor alike, so that concatenation keeps the codes."""


MACHINES = {
    "edge32": load_target("edge32"),
    "tiny8": load_target("tiny8"),
    "tiny8, 4 KiB": load_target("tiny8", ["spm.bytes=4096"]),
}


class Builder:
    """Adds layers to a graph of images (n, h, w, c)."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.graph = Graph(f"parts{seed}")
        n, h, w, c = (self.pick(1, 1, 2), self.pick(6, 9, 14), self.pick(5, 8, 13), self.pick(3, 8, 16))
        self.values = [self.graph.input("x", DType.F32, (n, h, w, c))]

    def pick(self, *options: int) -> int:
        return int(self.random.choice(options))

    def any(self) -> Node:
        return self.values[-self.pick(*range(1, min(len(self.values), 4) + 1))]

    def conv(self) -> Node:
        x, size, cout = self.any(), self.pick(1, 3), self.pick(4, 8, 17, 32)
        w = self.random.standard_normal((cout, x.shape[3], size, size)).astype(np.float32)
        weights = self.graph.const(w / np.float32(np.sqrt(w[0].size)), f"w{len(self.values)}")
        bias = self.graph.const(np.zeros(cout, np.float32), f"b{len(self.values)}")
        pad = size // 2
        operation = Conv2d((1, self.pick(1, 1, 2)), (pad, pad, pad, pad), (1, 1), "NHWC")
        return self.graph.add(operation, (x, weights, bias), name=f"conv{len(self.values)}")

    def pool(self) -> Node:
        name = f"pool{len(self.values)}"
        return self.graph.add(MaxPool((3, 3), (1, 1), (1, 1, 1, 1), "NHWC"), (self.any(),), name=name)

    def slice(self) -> Node:
        x, axis = self.any(), self.pick(0, 1, 2, 3, 3, 3)
        ends = sorted(self.pick(*range(x.shape[axis] + 1)) for _ in range(2))
        if ends[0] == ends[1]:
            return x
        return self.graph.add(part(x, axis, range(*ends)), (x,), name=f"slice{len(self.values)}")

    def pad(self) -> Node:
        before, after = ((0, self.pick(0, 1, 2), self.pick(0, 1), self.pick(0, 0, 3)) for _ in range(2))
        name = f"pad{len(self.values)}"
        return self.graph.add(Pad(before, after, "constant", 0.0), (self.any(),), name=name)

    def concat(self) -> Node:
        x, axis = self.any(), self.pick(1, 2, 3, 3)
        others = [
            v
            for v in self.values
            if (*v.shape[:axis], *v.shape[axis + 1 :]) == (*x.shape[:axis], *x.shape[axis + 1 :])
        ]
        joined = [others[self.pick(*range(len(others)))] for _ in range(self.pick(2, 3))]
        return self.graph.add(Concat(axis), joined, name=f"concat{len(self.values)}")

    def add(self) -> Node:
        x = self.any()
        same = [v for v in self.values if v.shape == x.shape]
        operands = x, same[self.pick(*range(len(same)))]
        return self.graph.add(Add(), operands, name=f"add{len(self.values)}")


def network(seed: int) -> Graph:
    """Layers at random, most of them parts; the last value and another one are returned."""
    b = Builder(seed)
    layers = [b.conv, b.conv, b.pool, b.slice, b.slice, b.pad, b.concat, b.concat, b.add]
    b.values.append(b.conv())
    while len(b.values) < 10:
        try:
            b.values.append(layers[b.pick(*range(len(layers)))]())
        except ShapeError:
            continue
    last = b.conv()
    outputs = [last, *(v for v in b.values[-1:] if v.op.name.startswith("nn.concat"))]
    b.graph.set_outputs(outputs, [f"y{i}" for i in range(len(outputs))])
    b.graph.erase_dead()
    return b.graph


def model_of(graph: Graph) -> api.Model:
    """Quantized so that every tensor has the same codes."""
    prepared = driver.prepare(graph)
    names = [n.name for n in prepared.nodes() if not n.is_constant]
    scheme = Scheme(dict.fromkeys(names, CODES))
    return api.Model(graph.name, prepared, driver.quantize(prepared, scheme))


def differs(graph: Graph, target: str, level: int = 3) -> str | None:
    """The first tensor that is not ONNX Runtime's."""
    model = model_of(graph)
    binary = api.compile(model, MACHINES[target], opt_level=level, search=1)
    result = verify(model, binary, random_inputs(graph, 1, seed=2))
    return result.first_divergence if result.mismatches else None


def parts_of(graph: Graph, target: str) -> list[Tensor]:
    """The tensors that lie within another."""
    made = plan(driver.lower(model_of(graph).integers()), MACHINES[target], schedule_options(3), 0.85)
    return [t for t in made.tiles.tensors if t.part_of is not None]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("target", MACHINES)
def test_every_tensor_equals_onnx_runtimes(seed: int, target: str) -> None:
    assert differs(network(seed), target) is None


@pytest.mark.parametrize("target", MACHINES)
def test_parts_of_parts_and_of_what_others_read_equal_onnx_runtimes(target: str) -> None:
    assert differs(joined_after_pools(), target) is None


@pytest.mark.parametrize("target", MACHINES)
def test_a_layer_that_reads_a_value_and_a_part_of_it_gets_both(target: str) -> None:
    graph = Graph("both")
    x = graph.input("x", DType.F32, (1, 12, 12, 16))
    w = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32) / np.float32(12)
    operands = (x, graph.const(w, "w"), graph.const(np.zeros(16, np.float32), "b"))
    y = graph.add(Conv2d((1, 1), (1, 1, 1, 1), (1, 1), "NHWC"), operands, name="y")
    z = graph.add(Add(), (y, graph.add(part(y, 3, range(16)), (y,), name="part")), name="z")
    graph.set_outputs([z], ["z"])
    assert differs(graph, target) is None


@pytest.mark.nightly
@pytest.mark.parametrize("block", range(20))
def test_every_tensor_of_many_networks_equals_onnx_runtimes(block: int) -> None:
    for seed in range(100 + 50 * block, 150 + 50 * block):
        for target, level in (("edge32", 2), ("edge32", 3), ("tiny8", 3), ("tiny8, 4 KiB", 3)):
            assert differs(network(seed), target, level) is None, (seed, target, level)


def test_the_networks_have_parts_of_every_kind_in_both_memories() -> None:
    graphs = [joined_after_pools(), *map(network, range(40))]
    found = [t for graph in graphs for target in MACHINES for t in parts_of(graph, target)]
    for resident in (False, True):
        here = [t for t in found if t.resident is resident]
        for axis in range(1, 4):
            assert sum(t.start[axis] > 0 for t in here) >= 2, (resident, axis)
        slices = sum(t.name.startswith("slice") for t in here)
        assert min(slices, len(here) - slices) >= 2


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_part_that_begins_elsewhere_is_found(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the start of parts along one axis is forgotten, where they are read or written."""
    whole = builder._in_whole  # pyright: ignore[reportPrivateUsage]

    def wrong(tensor: Tensor, *box: object) -> object:
        kept = tensor.start
        tensor.start = tuple(0 if i == axis else s for i, s in enumerate(kept))  # pyright: ignore[reportAttributeAccessIssue]
        try:
            return whole(tensor, *box)  # pyright: ignore[reportArgumentType]
        finally:
            tensor.start = kept

    monkeypatch.setattr(builder, "_in_whole", wrong)
    assert any(found_wrong(seed) for seed in range(40))


def found_wrong(seed: int) -> bool:
    try:
        return differs(network(seed), "edge32") is not None
    except AssertionError:  # the checker: an output written twice, or read before it is written
        return True


def test_a_part_named_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the binary says of every part that it begins one channel further along."""
    rows = emit._tensor_rows  # pyright: ignore[reportPrivateUsage]

    def shifted(row: TensorRow) -> TensorRow:
        if row.box is None:
            return row
        *others, (first, last) = row.box
        return replace(row, box=(*others, (max(first - 1, 0), max(last - 1, last - first))))

    def wrong(graph: Graph, plan: Plan) -> list[TensorRow]:
        return [shifted(row) for row in rows(graph, plan)]

    monkeypatch.setattr(emit, "_tensor_rows", wrong)
    assert any(differs(network(seed), "edge32") is not None for seed in range(10))


def joined_after_pools() -> Graph:
    """A convolution, two pools of it, and all three side by side."""
    graph, size = Graph("joined"), 40
    x = graph.input("x", DType.F32, (1, size, size, 32))
    w = graph.const(np.ones((32, 32, 3, 3), np.float32) / np.float32(288), "w")
    bias = graph.const(np.zeros(32, np.float32), "b")
    same = Conv2d((1, 1), (1, 1, 1, 1), (1, 1), "NHWC")
    y = graph.add(same, (x, w, bias), name="conv")
    pools = [
        graph.add(MaxPool((3, 3), (1, 1), (1, 1, 1, 1), "NHWC"), (y,), name=f"pool{i}") for i in range(2)
    ]
    joined = graph.add(Concat(3), (*pools, y), name="joined")
    part_of = graph.add(part(joined, 3, range(32, 64)), (joined,), name="part")
    padded = graph.add(
        Pad((0, 1, 1, 0), (0, 1, 1, 0), "constant", 0.5), (part_of,), name="padded"
    )  # zeros would be folded
    outputs = graph.add(Conv2d((1, 1), (0, 0, 0, 0), (1, 1), "NHWC"), (padded, w, bias), name="last")
    graph.set_outputs([outputs, graph.add(same, (y, w, bias), name="other")], ["y", "z"])
    return graph


@pytest.mark.parametrize("target", ["edge32", "tiny8"])
def test_parts_in_place_save_cycles_and_bytes(target: str) -> None:
    model = model_of(joined_after_pools())
    copied, placed = (
        profile(api.compile(model, target, opt_level=2, without=without).program)
        for without in (("address",), ())
    )
    assert placed.cycles < copied.cycles
    moved = [p.dram_read_bytes + p.dram_write_bytes for p in (placed, copied)]
    assert moved[0] <= moved[1]


def test_short_runs_that_many_read_are_copied() -> None:
    graph = Graph("many")
    x = graph.input("x", DType.F32, (1, 8, 8, 64))
    cut = graph.add(part(x, 3, range(4)), (x,), name="cut")
    for count in (1, 6):
        users = [
            graph.add(MaxPool((3, 3), (1, 1), (1, 1, 1, 1), "NHWC"), (cut,), name=f"pool{count}{i}")
            for i in range(count)
        ]
        graph.set_outputs(users, [u.name for u in users])
        graph.erase_dead()
        device = driver.lower(model_of(graph).integers())
        found = parts.slices_in_place(device, device.nodes(), load_target("edge32"))
        assert len(found) == (count == 1)
