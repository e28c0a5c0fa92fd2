"""The machine: traps with their place, poison, overflow, the debug map; sessions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from isa.assembly.assembler import assemble
from isa.checker import check
from isa.faults import MachineTrap
from isa.instructions.matrix import ArrayGemm
from isa.instructions.records import QuantRecord
from isa.instructions.vector import Requantize, VectorSoftmax
from isa.instructions.vector_elementwise import Elementwise, VectorElementwise
from isa.memory_map import REQUANT_RECORD, Region, Space
from isa.program import Program
from isa.spec import Instruction
from isa.support.diagnostics import UsageError
from isa.support.records import replace
from isa.target import load_target
from runtime.session import ProgramSession
from runtime.state import CoreState
from tests.bench import Bench, execute, executor


def program(body: str) -> Program:
    return assemble(".target tiny8\n.region 1 64\n.region 2 64\n.region 3 64\n" + body).program


def trapped(run: Callable[[], object]) -> MachineTrap:
    with pytest.raises(MachineTrap) as caught:
        run()
    return caught.value


def test_a_trap_names_instruction_engine_operand_address_and_node(golden: Callable[[str, str], None]) -> None:
    text = '.op 4 "conv1" "relu1"\nldf spm 0, n=8, fill=1\nvmov 64 <- 0, n=12\nhalt'
    trap = trapped(lambda: execute(CoreState(program(text), poison=True)))
    record = trap.record
    assert (record.code, record.pc, record.engine, record.operand, record.address) == (
        "UNINIT_READ", 1, "VX", "src", 8)  # fmt: skip
    assert record.nodes == ("conv1", "relu1")
    assert trap.exit_code == 6
    golden("errors/trap.txt", str(trap) + "\n")


def test_without_poison_undefined_bytes_are_the_same_on_every_run() -> None:
    state = CoreState(program("vmov 64 <- 0, n=8\nst spm 64, R1, n=8\nhalt"))
    runs: set[bytes] = set()
    for _ in range(2):
        state.reset()
        execute(state)
        runs.add(state.fetch(Region.ARENA, 0, 8).tobytes())
    assert runs == {bytes([0xA5] * 8)}


@pytest.mark.parametrize(
    ("instr", "code"),
    [
        (ArrayGemm(a=(1 << 23) - 1, k=2), "SPM_RANGE"),
        (ArrayGemm(acc=(1 << 14) - 1), "ACC_RANGE"),
        (Requantize(prm=(1 << 16) - 1, hi=1), "PRM_RANGE"),
        (ArrayGemm(waits=(31,)), "LIMIT"),
    ],
)
def test_illegal_instructions_trap_before_they_write(instr: Instruction, code: str) -> None:
    target = load_target("edge64", ["ctl.sems=16"])
    bench = Bench(instr, target=target)
    before = {space: memory.bytes.copy() for space, memory in bench.state.chip.items()}
    assert trapped(bench.run).record.code == code
    for space, memory in bench.state.chip.items():
        np.testing.assert_array_equal(memory.bytes, before[space])


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, -0.0])
def test_multipliers_that_are_no_scale_trap(scale: float) -> None:
    records = np.array([(0, scale)], REQUANT_RECORD)
    bench = Bench(Requantize(hi=1)).put(Space.PRM, 0, records).put(Space.ACC, 0, bytes(4))
    assert trapped(bench.run).record.code == "FP_INVALID"


def test_a_divisor_of_zero_and_a_table_without_end_trap() -> None:
    record = QuantRecord((np.float32(1), np.float32(1), np.float32(0)))
    bench = Bench(VectorElementwise(fn=Elementwise.FADD, b=8, out=16)).put(Space.PRM, 0, record.pack())
    assert trapped(bench.run).record.code == "FP_INVALID"
    softmax = Bench(VectorSoftmax(out=64, prm=128)).put(Space.PRM, 0, bytes(1024))
    assert trapped(softmax.run).record.code == "FP_INVALID"


@pytest.mark.parametrize("fn", [Elementwise.ADD, Elementwise.PRELU, Elementwise.AFFINE])
def test_offsets_and_tables_that_are_not_finite_trap(fn: Elementwise) -> None:
    record = QuantRecord((np.float32(1), np.float32(1), np.float32(np.nan if fn is Elementwise.ADD else 1)))
    table = np.full(2, np.inf, np.float32)
    instr = VectorElementwise(fn=fn, b=8 if fn is Elementwise.ADD else 0, out=16)
    bench = Bench(instr).put(Space.PRM, 0, record.pack()).put(Space.PRM, 40, table)
    assert trapped(bench.run).record.code == "FP_INVALID"


def test_accumulators_wrap_and_the_flag_says_so() -> None:
    instr = ArrayGemm(a=0, b=64, k=1, n=1, accum=1)
    bench = (
        Bench(instr).put(Space.SPM, 0, np.array([127], np.int8)).put(Space.SPM, 64, np.array([127], np.int8))
    )
    bench.put(Space.ACC, 0, np.array([2**31 - 1], np.int32)).run()
    assert bench.state.accumulator_overflow
    assert bench.get(Space.ACC, 0, (1,), np.int32)[0] == -(2**31) + 127 * 127 - 1
    strict = CoreState(bench.state.program, trap_on_overflow=True)
    strict.chip[Space.SPM].preload(bytes([127]), 0)
    strict.chip[Space.SPM].preload(bytes([127]), 64)
    strict.chip[Space.ACC].preload(np.array([2**31 - 1], np.int32).tobytes(), 0)
    trap = trapped(lambda: execute(strict))
    assert trap.record.code == "ACC_OVF"
    assert strict.chip[Space.ACC].bytes[:4].view(np.int32)[0] == 2**31 - 1, "nothing has been written"


def test_a_stream_without_halt_traps() -> None:
    whole = program("nop\nhalt")
    assert (
        trapped(lambda: execute(CoreState(replace(whole, instructions=whole.instructions[:1])))).record.code
        == "NO_HALT"
    )


def test_an_interrupted_stream_traps_at_a_halt_in_its_middle() -> None:
    whole = program("nop\nhalt")
    stream = (whole.instructions[1], *whole.instructions)
    assert trapped(lambda: execute(CoreState(replace(whole, instructions=stream)))).record.code == "NO_HALT"


def test_regions_that_are_read_only_cannot_be_stored_to() -> None:
    stored = Program(
        load_target("tiny8"), (assemble(".region 3 8\nst spm 0, R3, n=8\nhalt").program.instructions)
    )
    assert trapped(lambda: execute(CoreState(stored))).record.code == "DRAM_RANGE"


def test_session_speaks_like_onnx_runtimes() -> None:
    text = (".tensor in a float32 [1,2,3] R2 perm=[0,2,1] scale=0.5 zp=3\n.tensor out b float32 [1,2,3] R3 perm=[0,2,1] "
            "scale=0.5 zp=3\nld spm 0, R2, n=6 signal(0)\nst spm 0, R3, n=6 wait(0)\nhalt")  # fmt: skip
    session = ProgramSession(program(text))
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("a", "tensor(float)", [1, 2, 3])
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    (y,) = session.run(["b"], {"a": x})
    np.testing.assert_array_equal(y, x)
    with pytest.raises(UsageError, match="did you mean 'b'"):
        session.run(["bb"], {"a": x})
    with pytest.raises(UsageError, match="NaN"):
        session.run(None, {"a": x * np.nan})


def test_carriers_of_tokens_and_fences_compute_nothing_in_order_and_interleaved() -> None:
    text = (
        ".target tiny8\n.tensor out y int8 [1, 8] R3\nldf spm 0, n=8, fill=5 signal(0)\n"
        "wait.ld tag=7 signal(1)\nwait.mx wait(1) signal(2)\nwait.tx wait(2) signal(7)\nwait.rx wait(7) signal(3)\n"
        "wait.vx wait(0,3) signal(4)\nwait.ctl wait(4)\nfence mask=3\nst spm 0, R3, n=8 signal(5)\n"
        "wait.st signal(6)\nnop wait(5,6)\nhalt"
    )
    program = assemble(text).program
    assert not check(program).violations
    for seed in (None, 1, 2, 3):
        assert ProgramSession(program).execute({}, executor=executor(seed)).outputs["y"].tolist() == [[5] * 8]
