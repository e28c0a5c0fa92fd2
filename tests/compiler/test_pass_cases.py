"""What every pass does to small graphs, and what it leaves alone; and every pass keeps what graphs compute.

A file tests/golden/passes/cases/PASS.txt holds the cases of a pass:

    == title
    graph ...           what the pass is given
    -- becomes          or `-- stays`, after which nothing follows, or `-- refuses` and what it says
    graph ...           what it makes of it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from compiler.errors import CompileError
from compiler.export.qdq import to_qdq
from compiler.frontend.ir_reader import parse_graph
from compiler.frontend.onnx_reader import read_onnx
from compiler.ir.evaluate import Sample, outputs
from compiler.ir.graph import Graph, Input, Node
from compiler.ir.printer import print_graph
from compiler.ir.types import Quant
from compiler.ops.activation import Clamp, ClampCodes
from compiler.ops.add import Add
from compiler.ops.max_pool import MaxPool
from compiler.ops.shapes import Identity, Transpose
from compiler.passes.base import Pass, run_passes
from compiler.passes.calibrate import made_up
from compiler.passes.equalize import EqualizeLayers
from compiler.passes.fuse_activation import FuseActivation
from compiler.passes.fuse_code_clamp import FuseCodeClamp
from compiler.passes.pipeline import PASS_NAMES, PREPARE, PREPARE_PREQUANTIZED, TO_DEVICE, fuse_passes
from compiler.passes.quantize import QuantizeGraph
from compiler.passes.to_device_layout import ToDeviceLayout
from compiler.quantize.scheme import Scheme
from compiler.train.network import SIMPLIFY
from isa.support.records import replace
from tests.golden_cases import GOLDEN, Case, all_cases, cases_of, require
from tests.networks import calibrated, random_graph, random_inputs

FOLDER: Final = GOLDEN / "passes" / "cases"
SCHEME: Final = Scheme({"image": Quant((2**-4,), 0), "y": Quant((2**-3,), -4)}, calibration="by hand")
MADE: Final[dict[str, Pass]] = {"equalize-layers": EqualizeLayers(), "quantize": QuantizeGraph(SCHEME)}
"""The passes of no pipeline."""
PASSES: Final[dict[str, Pass]] = {
    p.name: p
    for p in (*PREPARE, *PREPARE_PREQUANTIZED, *fuse_passes(SCHEME), *TO_DEVICE, *SIMPLIFY, *MADE.values())
}

TRAINING: Final = {p.name for p in SIMPLIFY}


def made(name: str, case: Case) -> tuple[tuple[str, str], ...]:
    """What a pass makes of a case, as the file says it."""
    graph = parse_graph(case.given)
    try:
        text = print_graph(run_passes(graph, [PASSES[name]]), blobs=True)
    except CompileError as error:
        return (("refuses", "".join(f"{d.code}: {d.message}\n" for d in error.diagnostics)),)
    return (("stays", ""),) if text == case.given else (("becomes", text),)


CASES: Final = all_cases(FOLDER)


@pytest.mark.parametrize(("path", "case"), [pytest.param(p, c, id=f"{p.stem}: {c.title}") for p, c in CASES])
def test_a_pass_makes_of_a_graph_what_its_file_says(
    path: Path, case: Case, pytestconfig: pytest.Config, golden: Callable[[str, str], None]
) -> None:
    require(
        path,
        case,
        lambda c: made(path.stem, c),
        golden if pytestconfig.getoption("--update-golden") else None,
    )


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_has_a_case_that_it_changes_and_one_that_it_leaves_alone(name: str) -> None:
    """Passes that make a graph of another stage leave none alone; they refuse one."""
    words = {word for case in cases_of(FOLDER / f"{name}.txt") for word, _ in case.verdicts}
    assert words >= {"becomes", "refuses" if PASSES[name].changes_values else "stays"}


def test_every_file_of_cases_is_that_of_a_pass() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(PASSES) == {*PASS_NAMES, *TRAINING}


def kept(graph: Graph, passes: Sequence[Pass], samples: Sequence[Sample]) -> Graph:
    """Run passes; each that does not say otherwise keeps the values of all outputs.

    Integers are kept bit for bit.
    """
    for each in passes:
        made = run_passes(graph.copy(), [each])
        if not each.changes_values:
            for sample in samples:
                _require_same(
                    outputs(graph, sample), outputs(made, sample), each, exact=graph.stage.is_integer
                )
        graph = made
    return graph


def _require_same(before: Sample, after: Sample, by: Pass, *, exact: bool) -> None:
    assert list(before) == list(after), by.name
    for name, expected in before.items():
        if exact:
            assert after[name].tobytes() == expected.tobytes(), f"{by.name}: {name}"
        else:
            np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-4, err_msg=by.name)


@pytest.mark.parametrize(("path", "case"), [pytest.param(p, c, id=f"{p.stem}: {c.title}") for p, c in CASES
                                            if "becomes" in dict(c.verdicts)])  # fmt: skip
def test_the_graph_of_a_case_computes_the_same_afterwards(path: Path, case: Case) -> None:
    graph = parse_graph(case.given)
    kept(graph, [PASSES[path.stem]], random_inputs(graph, 3))


def crowded(graph: Graph, seed: int) -> Graph:
    """A graph with more of what passes take away, and with more outputs."""
    random = np.random.default_rng(seed)
    made, now, returned = Graph(graph.name), dict[int, Node](), list[Node]()

    def after(node: Node, name: str) -> Node:
        match int(random.integers(8)):
            case 0:
                return made.add(Identity(), [node], name=f"{name}/same")
            case 1:
                axis = int(random.integers(len(node.shape)))
                row = random.standard_normal([d if i == axis else 1 for i, d in enumerate(node.shape)])
                return made.add(Add(), [node, made.const(row.astype(np.float32))], name=f"{name}/more")
            case 2:
                made.add(Clamp(0.0, 1.0), [node], name=f"{name}/dead")
            case 3:
                returned.append(node)
            case 4 if len(node.shape) == 4:
                picked = MaxPool((1, 1), (17, 1), (0, 0, 0, 0), "NHWC")  # more than the instruction's stride
                returned.append(made.add(picked, [node], name=f"{name}/picked"))
            case _:
                pass
        return node

    for node in graph.nodes():
        if node.is_constant:
            turned = tuple(range(len(node.shape)))[::-1]
            now[node.id] = made.add(
                Transpose(turned), [made.const(node.constant.T)], name=f"{node.name}/turned"
            )
            continue
        if isinstance(node.op, Input):
            value = made.input(node.name, node.type.dtype, node.shape)
        else:
            value = made.add(node.op, [now[i.id] for i in node.inputs], name=node.name)
        now[node.id] = after(value, node.name)
    results = list(dict.fromkeys([*(now[n.id] for n in graph.outputs), *returned]))
    made.set_outputs(results, [f"y{i}" for i in range(len(results))])
    return made


def clamped(graph: Graph) -> Graph:
    """A graph of integers with clamps after what clamps its result anyway."""
    graph = graph.copy()
    for node in graph.nodes():
        user = graph.sole_user(node)
        if user is not None and hasattr(node.op, "bounds"):
            clamp = graph.add(ClampCodes((-40, 60)), [node], name=f"{node.name}/clamped")
            graph.set_operand(user, user.inputs.index(node), clamp)
    return graph


def through_all(seed: int, folder: Path, passes: Callable[[Sequence[Pass]], Sequence[Pass]] = tuple) -> None:
    """A random network on both ways to the device, every pass compared; `passes` may put others in their place."""
    graph = crowded(random_graph(seed), seed)
    samples = random_inputs(graph, 1)
    prepared = kept(graph, passes((*PREPARE, EqualizeLayers())), samples)
    quantized = calibrated(prepared, samples)
    kept(quantized, passes(TO_DEVICE), samples)
    kept(clamped(quantized), passes([p for p in fuse_passes(SCHEME) if not p.changes_values]), samples)
    path = folder / "quantized.onnx"
    path.write_bytes(to_qdq(quantized).SerializeToString())
    again = read_onnx(path)
    kept(again, passes((*PREPARE_PREQUANTIZED, *fuse_passes(made_up(again)), *TO_DEVICE)), samples)


@pytest.mark.parametrize("seed", range(25))
def test_every_pass_keeps_what_a_random_network_computes(seed: int, tmp_path: Path) -> None:
    through_all(seed, tmp_path)


@pytest.mark.parametrize("kind", [FuseActivation, FuseCodeClamp, ToDeviceLayout])
def test_a_pass_that_moves_a_bound_is_found(kind: type[Pass], tmp_path: Path) -> None:
    class Spoilt(kind):
        """The pass, and then the lower bound of every clamp is one more."""

        def run(self, graph: Graph) -> Graph:
            graph = super().run(graph)
            for node in graph.nodes():
                operation: Any = node.op
                for name in ("clamp", "bounds"):
                    if found := getattr(operation, name, None):
                        low = found[0] + 1
                        node.op = replace(operation, **{name: (low, max(low, found[1]))})
            return graph

    def spoilt(passes: Sequence[Pass]) -> list[Pass]:
        return [Spoilt() if type(p) is kind else p for p in passes]

    def all_seeds() -> None:
        for seed in range(6):
            through_all(seed, tmp_path, spoilt)

    with pytest.raises(AssertionError, match=kind.name):
        all_seeds()
