"""The checker accepts what the compiler makes, and rejects what has been tampered with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest

from isa.accesses import tabulate
from isa.assembly.assembler import assemble
from isa.checker import check
from isa.checker.proof import is_defined, is_ordered
from isa.checker.report import Violations
from isa.checker.shadows import Shadows
from isa.checker.tokens import check_tokens, happens_before
from isa.encoding import addresses
from isa.program import Program
from isa.spec import Engine, Instruction
from isa.support.records import replace
from isa.validate import instruction_faults
from tests.networks import compiled_and_verified, random_graph
from tests.tokens import token_pairs, with_stream, without, without_pair


@cache
def compiled(seed: int, target: str) -> Program:
    binary, _ = compiled_and_verified(random_graph(seed), target, samples=1)
    return binary.program


PROGRAMS = [(seed, target) for seed in range(6) for target in ("tiny8", "edge32")]


@pytest.mark.parametrize(("seed", "target"), PROGRAMS)
def test_compiled_programs_are_accepted(seed: int, target: str) -> None:
    assert check(compiled(seed, target)).violations == ()


@pytest.mark.parametrize(("seed", "target"), PROGRAMS)
def test_every_dropped_pair_of_signal_and_wait_is_rejected(seed: int, target: str) -> None:
    """The token pass keeps only edges that nothing else implies, so that each drop is a race."""
    program = compiled(seed, target)
    for pair in list(token_pairs(program.instructions))[:40]:
        report = check(without_pair(program, pair))
        assert any(v.rule == "RACE" for v in report.violations), pair


@pytest.mark.parametrize(("seed", "target"), PROGRAMS[:4])
def test_a_wait_alone_or_a_signal_alone_is_rejected(seed: int, target: str) -> None:
    program = compiled(seed, target)
    for signaller, waiter, semaphore in list(token_pairs(program.instructions))[:20]:
        no_signal = list(program.instructions)
        no_signal[signaller] = replace(
            no_signal[signaller], signals=without(no_signal[signaller].signals, semaphore)
        )
        assert {v.rule for v in check(with_stream(program, no_signal)).violations} & {"SEM_UNDERFLOW", "RACE"}
        no_wait = list(program.instructions)
        no_wait[waiter] = replace(no_wait[waiter], waits=without(no_wait[waiter].waits, semaphore))
        assert check(with_stream(program, no_wait)).violations


def test_swapped_dependent_instructions_are_rejected() -> None:
    program = compiled(1, "tiny8")
    swapped = 0
    for signaller, waiter, _ in token_pairs(program.instructions):
        first, second = program.instructions[signaller], program.instructions[waiter]
        if waiter != signaller + 1 or first.signals != second.waits:
            continue
        stream = list(program.instructions)
        stream[signaller : waiter + 1] = [second, first]
        assert check(with_stream(program, stream)).violations
        swapped += 1
    assert swapped > 5


def text_program(body: str) -> Program:
    """The program of a text; the assembler would refuse one without halt, so that it is cut off here."""
    head = ".target tiny8\n.region 1 256\n.region 3 64\n.tensor in x int8 [256] R2\n"
    if body.endswith("halt"):
        return assemble(head + body).program
    whole = assemble(f"{head}{body}\nhalt").program
    return with_stream(whole, list(whole.instructions[:-1]))


REJECTED = {
    "RACE": "ld spm 0, R2, n=8\nvmov 64 <- 0, n=8\nhalt",
    "SEM_UNDERFLOW": "nop wait(1)\nhalt",
    "SEM_LEFT": "nop signal(1)\nhalt",
    "SEM_OWNER": "wait.ld signal(1)\nwait.st signal(1)\nwait.vx wait(1)\nwait.vx wait(1)\nhalt",
    "SEM_OVERFLOW": "wait.ld signal(1)\n" * 16 + "wait.vx wait(1)\n" * 16 + "halt",
    "UNINIT_READ": "vmov 64 <- 0, n=8\nhalt",
    "NO_HALT": "nop",
}


@pytest.mark.parametrize("rule", REJECTED)
def test_each_rule_rejects_a_program_that_breaks_it(rule: str) -> None:
    assert rule in {v.rule for v in check(text_program(REJECTED[rule])).violations}


def test_a_store_and_a_load_of_the_same_dram_bytes_need_a_token() -> None:
    body = (
        "ldf spm 0, n=8, fill=3 signal(0)\nst spm 0, R1, n=8 wait(0) {signal}\n"
        "ld spm 64, R1, n=8 {wait}\nhalt"
    )
    assert check(text_program(body.format(signal="", wait=""))).violations
    assert not check(text_program(body.format(signal="signal(1)", wait="wait(1)"))).violations


def test_fence_orders_everything() -> None:
    assert not check(text_program("ld spm 0, R2, n=8\nfence\nvmov 64 <- 0, n=8\nhalt")).violations


def test_interleaved_writes_do_not_race() -> None:
    """Exact footprints: two engines may write every other byte of the same range."""
    body = (
        "ldf spm 64, n=8 signal(0)\nldf spm 0, n=1, n1=8, ls1=2\n"
        "vmov src=64, dst={dst}, n0=1, n1=8, ss1=1, dd1=2 wait(0)\nhalt"
    )
    assert not check(text_program(body.format(dst=1))).violations
    assert check(text_program(body.format(dst=2))).violations


def test_bytes_of_the_input_region_that_no_input_has_are_undefined() -> None:
    text = ".target tiny8\n.region 2 64\n.tensor in a int8 [8] R2\n.tensor in b int8 [8] R2+16\n"
    for count, sound in ((8, True), (9, False), (24, False)):
        program = assemble(f"{text}ld spm 0, R2, n={count}\nhalt").program
        assert (not check(program).violations) == sound
    both = assemble(f"{text}ld spm 0, R2, n=8, n1=2, ds1=16, ls1=8\nhalt").program
    assert not check(both).violations


def test_registers_are_defined_and_ordered_like_any_memory() -> None:
    absmax = "ldf spm 0, n=8, fill=3 signal(0)\nvred absmax, 1x1x8, sreg=5, ips=8 irs=8 wait(0) {signal}\n"
    assert check(text_program(absmax.format(signal="") + "sop mov rd=2, rb=5\nhalt")).violations
    ordered = absmax.format(signal="signal(1)") + "sop mov rd=2, rb=5 wait(1)\nhalt"
    assert not check(text_program(ordered)).violations
    assert check(text_program("sop mov rd=2, rb=7\nhalt")).violations
    assert not check(text_program("sop mov rd=2, rb=0, imm=4\nassert eq ra=2, imm=4\nhalt")).violations


def test_control_waits_hold_back_later_instructions() -> None:
    body = "ld spm 0, R2, n=8 signal(0)\nnop wait(0)\nvmov 64 <- 0, n=8\nhalt"
    assert not check(text_program(body)).violations


def test_messages_name_both_instructions_and_the_missing_edge(golden: Callable[[str, str], None]) -> None:
    lines = [f"{rule}\n  {v.pc} {v.rule}: {v.message}" for rule, body in REJECTED.items()
             for v in check(text_program(body)).violations[:1]]  # fmt: skip
    golden("errors/checker.txt", "\n".join(lines) + "\n")


def test_shadow_memories_agree_with_a_dumber_search() -> None:
    """Random programs of copies: the checker's verdict equals that of all pairs, compared byte by byte."""
    generator = np.random.default_rng(4)
    verdicts: set[bool] = set()
    for _ in range(200):
        program = text_program(_random_copies(generator))
        raced = any(v.rule == "RACE" for v in check(program, limit=1000).violations)
        assert raced == _races_by_search(program)
        verdicts.add(raced)
    assert verdicts == {True, False}


def verdicts(program: Program) -> tuple[bool, bool] | None:
    """Whether the quick proofs clear a program, and whether the shadow memories do; None if tokens don't."""
    findings = Violations(program, 1000)
    matches = check_tokens(program.instructions, program.target, findings)
    if findings.found:
        return None
    table = tabulate(program.instructions, program.target)
    clocks = happens_before(program.instructions, matches)
    quick = is_defined(program, table) and is_ordered(program, table, clocks)
    Shadows(program, clocks, findings).run()
    return quick, not findings.found


@pytest.mark.parametrize(("seed", "target"), PROGRAMS)
def test_quick_proofs_clear_compiled_programs(seed: int, target: str) -> None:
    assert verdicts(compiled(seed, target)) == (True, True)


def test_quick_proofs_never_clear_what_the_shadow_memories_reject() -> None:
    generator = np.random.default_rng(5)
    programs = [text_program(_random_copies(generator)) for _ in range(200)]
    for seed in range(6):
        program = compiled(seed, "tiny8")
        programs += [without_pair(program, pair) for pair in list(token_pairs(program.instructions))[:30]]
        programs += [with_stream(program, s) for s in _with_moved_addresses(program, generator)]
    found = [v for program in programs if (v := verdicts(program)) is not None]
    assert all(close or not quick for quick, close in found)
    assert {close for _, close in found} == {True, False}
    assert sum(close and not quick for quick, close in found) < len(found) // 20


def _with_moved_addresses(program: Program, generator: np.random.Generator) -> Iterator[list[Instruction]]:
    """Streams with one address of one instruction moved within the memory."""
    for _ in range(30):
        stream = list(program.instructions)
        pc = int(generator.integers(len(stream) - 1))
        spec = addresses(type(stream[pc]))[0]
        place = max(0, getattr(stream[pc], spec.name) + 8 * int(generator.integers(-40, 41)))
        stream[pc] = replace(stream[pc], **{spec.name: place})
        regions = program.region_sizes()
        if not instruction_faults(stream[pc], program.target, regions):
            yield stream


def _random_copies(generator: np.random.Generator) -> str:
    """Fills and copies between few places, some of them ordered by tokens."""
    lines = ["ldf spm 0, n=256, fill=1 signal(0)", "wait.vx wait(0)"]
    owed = 0
    for _ in range(int(generator.integers(2, 7))):
        place, other = (16 * int(v) for v in generator.integers(0, 6, 2))
        if generator.random() < 0.5:
            lines.append(f"ldf spm {place}, n=24, fill=2 signal(1)")
            owed += 1
        else:
            wait = " wait(1)" if owed and generator.random() < 0.6 else ""
            owed -= bool(wait)
            lines.append(f"vmov {place} <- {other + 64}, n=16{wait}")
    return "\n".join([*lines, *["wait.vx wait(1)"] * owed, "halt"])


def _races_by_search(program: Program) -> bool:
    """Happens-before by closure over pairs; conflicts by sets of bytes."""
    stream = program.instructions
    count = len(stream)
    before = np.eye(count, dtype=bool)
    for i in range(count):
        for j in range(i):
            control = Engine.CTL in (stream[i].engine, stream[j].engine)
            before[j, i] = stream[i].engine is stream[j].engine or control
    for signaller, waiter, _ in token_pairs(stream):
        before[signaller, waiter] = True
    for k in range(count):
        before |= before[:, k : k + 1] & before[k : k + 1, :]
    touched = [_bytes_of(program, instr) for instr in stream]
    return any(
        not before[j, i]
        and (touched[i][1] & (touched[j][0] | touched[j][1]) or touched[j][1] & touched[i][0])
        for i in range(count)
        for j in range(i)
    )


def _bytes_of(program: Program, instr: Instruction) -> tuple[set[int], set[int]]:
    """Scratchpad bytes that an instruction reads and writes."""
    sets: tuple[set[int], set[int]] = (set(), set())
    for access in instr.accesses(program.target):
        places = {access.base}
        for number, pitch in access.dims:
            places = {p + i * pitch for p in places for i in range(number)}
        sets[access.write].update(places)
    return sets
