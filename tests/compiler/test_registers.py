"""Scalar registers and the state region in schedules: placed, ordered and synchronized like all other memories."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.codegen.emit import resolved_stream
from compiler.schedule.options import ScheduleOptions
from compiler.schedule.order.allocate import allocate
from compiler.schedule.order.list_scheduling import overlapped, serial, touches
from compiler.schedule.tile_graph import UNPLACED, Buffer, Memory, Ref, TileOp
from compiler.schedule.tokens import insert_tokens
from isa.checker import check
from isa.instructions.control import Scalar, ScalarOperation
from isa.instructions.dma import Load, OnChip, Store
from isa.instructions.vector_words import Function32, Source32, Vector32
from isa.memory_map import SREGS, Region
from isa.program import Program
from isa.target import load_target
from runtime.state import CoreState
from tests.bench import executor

TARGET = load_target("tiny8")
SHIFT = 3


def operations(variables: int) -> tuple[list[TileOp], Buffer]:
    """For each variable of the state: load it, add SHIFT to it, make it a float row, store its bits."""
    state = Buffer("state", Memory.STATE, 4 * variables)
    ops: list[TileOp] = []
    for index in range(variables):
        register, after, row = (
            Buffer(f"{role}{index}", memory, 1, 1)
            for role, memory in (("s", Memory.SREG), ("t", Memory.SREG), ("r", Memory.ACC))
        )
        place = Ref(state, 4 * index)
        load = Load(space=OnChip.SREG, region=Region.STATE, n0=4)
        ops.append(TileOp(load, {"dram": place, "loc": Ref(register)}, 0, (), "load"))
        add = ScalarOperation(fn=Scalar.ADD, rd=UNPLACED, ra=UNPLACED, imm=SHIFT)
        ops.append(TileOp(add, {"ra": Ref(register), "rd": Ref(after)}, 0, (), "compute"))
        power = Vector32(fn=Function32.P2F, sa=Source32.REG, sra=UNPLACED)
        ops.append(TileOp(power, {"sra": Ref(after), "d": Ref(row)}, 0, (), "compute"))
        store = Store(space=OnChip.ACC, region=Region.STATE, n0=4)
        ops.append(TileOp(store, {"dram": place, "loc": Ref(row)}, 0, (), "store"))
    return ops, state


def program(variables: int, *, overlap: bool) -> Program:
    ops, state = operations(variables)
    touched = touches(ops, TARGET)
    timing = overlapped(ops, touched, TARGET, frozenset(), ScheduleOptions()) if overlap else serial(ops)
    allocate(ops, touched, timing, [state], {0: "all"}, TARGET)
    stream = insert_tokens(resolved_stream([ops[i] for i in timing.issue_order]), TARGET)
    initial = np.arange(variables, dtype=np.int32) - 5
    return Program(TARGET, tuple(stream.instructions), state=initial.tobytes())


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("variables", [1, 9, 3 * SREGS])
def test_registers_are_shared_in_time_and_every_order_is_safe(variables: int, overlap: bool) -> None:
    made = program(variables, overlap=overlap)
    assert not check(made).violations
    used = {a for i in made.instructions for a in (getattr(i, "rd", 0), getattr(i, "sra", 0)) if a}
    assert used
    assert max(used) < SREGS
    expected = 2.0 ** np.minimum(np.arange(variables) - 5 + SHIFT, 127)
    for seed in (None, 1, 2, 3):
        state = CoreState(made)
        executor(seed).run([state])
        np.testing.assert_array_equal(state.kept.view(np.float32), expected.astype(np.float32))


def test_a_control_instruction_without_its_wait_is_found() -> None:
    from isa.support.records import replace

    made = program(4, overlap=True)
    stripped = [replace(i, waits=()) if isinstance(i, ScalarOperation) else i for i in made.instructions]
    assert check(replace(made, instructions=tuple(stripped))).violations
