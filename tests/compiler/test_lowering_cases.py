"""The tiles of every operation, as schedules of networks of one operation; and what does not fit.

A file tests/golden/lowerings/OPERATION.txt holds the cases of a planner:

    == title
    graph ...                               a network of stage q
    -- tiny8                                a target, and keys of it that are set otherwise
    // schedule of ...                      what `x1 compile --emit schedule` prints
    -- refused on tiny8 spm.bytes=1024      or what it says instead
    error: ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from compiler import driver
from compiler.errors import CompileError, FitError
from compiler.frontend.ir_reader import parse_graph
from compiler.ir.op import OPS, Op, StridedCopy
from compiler.ops.activation import ClampCodes, QTable
from compiler.ops.add import QAdd
from compiler.ops.binary import QMul, QReal
from compiler.ops.concat import QConcat
from compiler.ops.depth_to_space import Take
from compiler.ops.matmul import QMatMul
from compiler.ops.prelu import QAffine, QPRelu
from compiler.ops.shapes import Transpose
from compiler.ops.slices import QPad
from compiler.ops.transfer import ReceiveFrom, SendTo
from compiler.schedule.builder import PLANNERS
from compiler.schedule.options import schedule_options
from compiler.schedule.printer import print_schedule
from compiler.search import choose
from isa.program import Note
from isa.target import load_target
from tests.golden_cases import GOLDEN, Case, all_cases, require

FOLDER: Final = GOLDEN / "lowerings"
CASES: Final = all_cases(FOLDER)


@cache
def planned(text: str, where: str) -> tuple[str, str]:
    """How a file says what becomes of a network on a target."""
    name, *overrides = where.split()
    target = load_target(name, overrides)
    device = driver.lower(parse_graph(text))
    try:
        chosen = choose(device, target, schedule_options(3), Note())
    except (CompileError, FitError) as error:
        return f"refused on {where}", "".join(f"{d.render()}\n" for d in error.diagnostics)
    return where, print_schedule(chosen.schedule, device.name, target.name)


def verdicts(case: Case) -> tuple[tuple[str, str], ...]:
    """What becomes of a case on its targets now."""
    return tuple(planned(case.given, word.removeprefix("refused on ")) for word, _ in case.verdicts)


@pytest.mark.parametrize(("path", "case"), [pytest.param(p, c, id=f"{p.stem}: {c.title}") for p, c in CASES])
def test_an_operation_is_lowered_as_its_file_says(
    path: Path, case: Case, pytestconfig: pytest.Config, golden: Callable[[str, str], None]
) -> None:
    device = driver.lower(parse_graph(case.given))
    assert any(n.op.name == path.stem and n.type.dtype.is_integer for n in device.nodes()), (
        "it is not lowered"
    )
    require(path, case, verdicts, golden if pytestconfig.getoption("--update-golden") else None)


NEVER_REFUSED: Final[dict[type[Op], str]] = {
    **dict.fromkeys(
        (QTable, ClampCodes, QConcat, StridedCopy, QPad, Take), "a copy of one element fits everywhere"
    ),
    **dict.fromkeys((SendTo, ReceiveFrom), "a message may be one pixel"),
    **dict.fromkeys((QAdd, QMul, QReal, QPRelu, QAffine), "a tile may be one element of each operand"),
    Transpose: "a tile may be one element",
    QMatMul: "a tile may be the product of two elements; depth is added up in the accumulators",
}
"""Planners that find a tile on every target, as even the least scratchpad holds one."""


def operations(kind: type[Op]) -> list[str]:
    """The operations of which a class has the planner: itself, or what derives from it."""
    return [name for name, op in OPS.items() if next((k for k in op.__mro__ if k in PLANNERS), None) is kind]


OF_INFERENCE: Final = [k for k, plan in PLANNERS.items() if ".step." not in plan.__module__]
"""A step's operations are planned in tests/training."""


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in OF_INFERENCE])
def test_every_planner_has_a_case_that_it_lowers_and_one_that_it_refuses(kind: type[Op]) -> None:
    found = [word for path, case in CASES if path.stem in operations(kind) for word, _ in case.verdicts]
    refused = [word for word in found if word.startswith("refused on ")]
    assert len(refused) < len(found)
    assert bool(refused) != (kind in NEVER_REFUSED), NEVER_REFUSED.get(kind, "no refusal")


def test_every_file_of_lowerings_is_that_of_a_lowered_operation() -> None:
    lowered = {name for kind in OF_INFERENCE for name in operations(kind)}
    assert {path.stem for path in FOLDER.iterdir()} <= lowered
