"""The cycle model: two implementations agree to the cycle, and small programs take what the manual says."""

from __future__ import annotations

from random import Random

import pytest

from isa.faults import MachineTrap
from isa.instructions.control import Barrier, Fence, Halt, Nop
from isa.instructions.dma import Fill, Load, OnChip, Store
from isa.instructions.matrix import ArrayGemm, Conv
from isa.instructions.vector import Requantize, VectorMove
from isa.program import Program
from isa.spec import INSTRUCTIONS, Engine, Instruction
from isa.support.records import replace
from isa.target import Target, load_target
from isa.timing.model import simulate
from tests.networks import compiled_and_verified, random_graph
from tests.runtime.stepped import Stepped

SPM = 16384


def random_target(random: Random) -> Target:
    """A small machine in which everything is scarce."""
    return load_target(
        "tiny8",
        [
            f"ctl.queue_depth={random.choice((1, 2, 8))}",
            f"ctl.dispatch={random.choice((1, 1, 3))}",
            f"ctl.sem_max={random.choice((1, 2, 15))}",
            f"ctl.issue={random.choice((0, 4))}",
            f"spm.banks={random.choice((1, 4, 16))}",
            f"spm.interleave={random.choice(('true', 'false'))}",
            f"acc.banks={random.choice((1, 2, 4))}",
            f"dram.latency_read={random.choice((0, 5, 60))}",
            f"dram.latency_write={random.choice((0, 30))}",
            f"dram.bytes_per_cycle={random.choice((2, 16))}",
            f"mx.wload_double={random.choice(('true', 'false'))}",
        ],
    )


def random_instruction(random: Random) -> Instruction:
    """Any legal instruction of a kind that the compiler emits."""
    spot = random.randrange(SPM // 2) & ~63
    other = SPM // 2 + random.randrange(SPM // 4) & ~63
    size = random.choice((1, 30, 64, 200))
    match random.randrange(9):
        case 0:
            return Load(region=0, dram=random.randrange(300), loc=spot, n0=size, n1=3, ds1=500, ls1=size + 9)
        case 1:
            return Load(space=OnChip.PRM, region=0, dram=random.randrange(300), n0=64)
        case 2:
            return Store(region=1, dram=random.randrange(300), loc=spot, n0=size)
        case 3:
            return Fill(loc=spot, n0=size, n1=random.randrange(2, 5), ls1=300)
        case 4:
            out = random.randrange(1, 7)
            return Conv(
                inp=spot,
                wgt=other // 8 * 8,
                acc=random.randrange(16),
                oh=out,
                ow=4,
                cin=6,
                cout=12,
                kh=3,
                kw=3,
                ips=6,
                irs=48,
                ih=out + 2,
                iw=6,
                ags=24,
            )
        case 5:
            return ArrayGemm(
                a=spot, b=other, acc=random.randrange(16), m=random.randrange(1, 30), n=8, k=20, ap=20, bp=8
            )
        case 6:
            return Requantize(
                acc=random.randrange(16), out=spot, h=3, w=5, c=12, ags=15, aws=5, ops=12, ors=60
            )
        case 7:
            return VectorMove(src=min(spot, SPM // 2 - 832), dst=other, n0=size, n1=4, ss1=size, dd1=size)
        case _:
            return random.choice(
                (Nop(), Fence(), Barrier(), INSTRUCTIONS["wait.vx"](), INSTRUCTIONS["wait.ld"]())
            )


def random_program(seed: int) -> Program:
    """Random instructions, with tokens wherever rules R1 to R4 let one be."""
    random = Random(seed)
    target = random_target(random)
    stream = [random_instruction(random) for _ in range(120)]
    stream = [i for i in stream if i.engine is not Engine.CTL or random.random() < 0.4]
    numbers: dict[tuple[Engine, Engine], int] = {}
    for _ in range(80):
        first, last = sorted(random.sample(range(len(stream)), 2))
        pair = stream[first].engine, stream[last].engine
        if pair[0] is pair[1] or last - first > 30:
            continue
        semaphore = numbers.setdefault(pair, len(numbers))
        full = len(stream[first].signals) == 2 or len(stream[last].waits) == 2
        named = semaphore in stream[first].signals or semaphore in stream[last].waits
        if semaphore >= target.ctl.sems or full or named:
            continue
        changed = list(stream)
        changed[first] = replace(changed[first], signals=(*changed[first].signals, semaphore))
        changed[last] = replace(changed[last], waits=(*changed[last].waits, semaphore))
        if highest(changed, semaphore) <= target.ctl.sem_max:
            stream = changed
    return Program(target, (*stream, Halt()), bytes(4096), arena_bytes=1024)


def highest(stream: list[Instruction], semaphore: int) -> int:
    level = most = 0
    for instr in stream:
        level -= semaphore in instr.waits
        level += semaphore in instr.signals
        most = max(most, level)
    return most


@pytest.mark.parametrize("seed", range(24))
def test_two_cycle_models_agree_on_random_programs(seed: int) -> None:
    program = random_program(seed)
    stepped = Stepped(program)
    cycles = stepped.run()
    timeline = simulate(program)
    assert timeline.start == [stepped.start[k] for k in range(len(program.instructions))]
    assert timeline.end == [stepped.end[k] for k in range(len(program.instructions))]
    assert timeline.cycles == cycles


@pytest.mark.parametrize("seed", [1, 4, 11])
def test_two_cycle_models_agree_on_networks(seed: int) -> None:
    binary, _ = compiled_and_verified(random_graph(seed), "edge32", samples=1)
    stepped = Stepped(binary.program)
    assert stepped.run() == simulate(binary.program).cycles


@pytest.mark.parametrize("seed", range(8))
def test_every_cycle_of_an_engine_is_work_or_has_a_cause(seed: int) -> None:
    timeline = simulate(random_program(seed))
    for engine, causes in timeline.stalls.items():
        assert timeline.busy(engine) + sum(causes.values()) == timeline.cycles


@pytest.mark.parametrize(
    ("instr", "trap"),
    [
        (Nop(signals=(9,)), "LIMIT"),
        (Store(region=1, dram=1020, n0=8), "DRAM_RANGE"),
        (Load(region=0, loc=SPM - 4, n0=8), "SPM_RANGE"),
    ],
)
def test_an_instruction_that_is_not_legal_stops_the_cycle_model(instr: Instruction, trap: str) -> None:
    target = load_target("tiny8", ["ctl.sems=8"])
    program = Program(target, (instr, Halt()), bytes(64), arena_bytes=1024)
    with pytest.raises(MachineTrap, match=trap):
        simulate(program)
