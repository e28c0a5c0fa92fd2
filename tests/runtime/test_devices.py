"""Several devices: the same bytes in every order, traps and deadlocks by name, cycles by formula."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from isa.assembly.assembler import assemble
from isa.assembly.disassembler import binary_of, disassemble
from isa.checker import check_executable
from isa.container import load_executable, save
from isa.executable import Executable
from isa.faults import MachineTrap
from isa.spec import Engine
from isa.support.diagnostics import AssemblyError, BinaryError
from isa.target import load_target
from isa.timing.links import route
from isa.timing.model import cycles_per_run, simulate_devices
from runtime.session import ProgramSession
from tests.bench import executor
from tests.runtime.device_texts import CHUNK, WORDS, all_reduce, by_device, tensors

REDUCTIONS: Final[dict[str, Any]] = {"add32": np.add, "max32": np.maximum}
EXCHANGE: Final = by_device(
    2,
    lambda d: (
        tensors(d, 2, 1)
        + f"ld spm, 0, R2, n={CHUNK} signal(0)\nsend spm, 0, n={CHUNK}, peer={1 - d} wait(0)\n"
        + f"recv spm, 64, n={CHUNK}, peer={1 - d} signal(1)\nst spm, 64, R3, n={CHUNK} wait(1)\nhalt\n"
    ),
)
"""Two devices exchange their chunks."""


def planes(devices: int) -> NDArray[np.int32]:
    """Words at both ends of their range among others."""
    drawn = np.random.default_rng(devices).integers(-(2**31), 2**31, (devices, devices, WORDS))
    drawn[0, 0, :2] = -(2**31), 2**31 - 1
    return drawn.astype(np.int32)


def outputs(executable: Executable, x: NDArray[Any], seed: int | None = None) -> NDArray[Any]:
    session = ProgramSession(executable.devices())
    return session.execute({"x": x}, executor=executor(seed)).outputs["y"]


@pytest.mark.parametrize("fn", REDUCTIONS)
@pytest.mark.parametrize("space", ["acc", "spm"])
@pytest.mark.parametrize("devices", [2, 3, 5])
def test_an_all_reduce_gives_every_device_the_same_in_every_order(devices: int, space: str, fn: str) -> None:
    made = assemble(all_reduce(devices, fn, space)).executable
    assert not check_executable(made).violations
    x = planes(devices)
    with np.errstate(over="ignore"):
        expected = np.broadcast_to(REDUCTIONS[fn].reduce(x, axis=0, dtype=x.dtype), x.shape)
    for seed in (None, 1, 2, 3):
        np.testing.assert_array_equal(outputs(made, x, seed), expected)


def test_registers_are_transferred_and_hold_the_number_of_the_device() -> None:
    def body(device: int) -> str:
        return (
            tensors(device, 3, 1)
            + "sid rd=5\nsop mul rd=6, ra=5, imm=10\n".replace(
                "sop mul rd=6, ra=5, imm=10", "sop shl rd=6, ra=5, imm=4"
            )
            + "send sreg, 5, n=8, peer=1, rel=1\nrecv sreg, 7, n=8, peer=2, rel=1 signal(1)\n"
            + f"ldf acc, 0, n={CHUNK} signal(2)\nst acc, 0, R3, n={CHUNK} wait(2)\n"
            + "st sreg, 7, R3, n=8 wait(1)\nhalt\n"
        )

    made = assemble(by_device(3, body)).executable
    found = outputs(made, np.zeros((3, 1, WORDS), np.int32))
    assert found[:, 0, :2].tolist() == [[2, 32], [0, 0], [1, 16]]


def test_devices_that_do_the_same_share_their_sections_and_text_gives_the_file_back(tmp_path: Path) -> None:
    relative = by_device(4, lambda _: "nop\nhalt\n") + ""
    same = assemble(relative).executable
    alone = assemble(".isa x1 0.2\n.target edge32\nnop\nhalt\n").executable
    found = load_executable(save(same))
    assert [p.device for p in found.programs] == [0, 1, 2, 3]
    assert len(save(same)) < len(save(alone)) + 1024
    made = assemble(all_reduce(3)).executable
    data = save(made)
    assert save(load_executable(data)) == data
    again = assemble(disassemble(made).text).executable
    assert [p.instructions for p in again.programs] == [p.instructions for p in made.programs]
    whole = disassemble(made, with_sections=True)
    for name, content in whole.files.items():
        (tmp_path / name).write_bytes(content)
    assert binary_of(assemble(whole.text, folder=tmp_path)) == data


def test_lines_before_those_of_devices_are_of_all(tmp_path: Path) -> None:
    """Text, data and labels; what a device has of its own comes after."""
    (tmp_path / "own").write_bytes(b"\7" * 8)
    text = (
        ".isa x1 0.2\n.target edge32\n.devices 2\n.section .weights\n.byte 1,2,3,4\n.align 8\n.section .text\n"
        "start: ld spm, 0, R0, n=16 signal(0)\n.device 0\n.section .weights\nmine: .byte 5\n.align 8\n"
        ".section .text\n.tensor out y int8 [2,16] R3 box=[0,1,0,1,0,1,0,16]\nst spm, 0, R3, n=16 wait(0)\nhalt\n"
        '.device 1\n.section .weights\n.incbin "own"\n.section .text\n'
        ".tensor out y int8 [2,16] R3 box=[0,1,0,1,1,2,0,16]\nst spm, mine-8, R3, n=16 wait(0)\nhalt\n"
    )
    made = load_executable(save(assemble(text, folder=tmp_path).executable))
    found = ProgramSession(made.devices()).execute({}).outputs["y"]
    assert found.tolist() == [[1, 2, 3, 4, *[0] * 4, 5, *[0] * 7], [1, 2, 3, 4, *[0] * 4, *[7] * 8]]
    assert [len(p.weights) for p in made.programs] == [16, 16]


FAULTS: Final = {
    "no other side": ("send spm, 0, n=32, peer=1 wait(0)\n", "wait.tx wait(0)\n"),
    "another channel": ("send spm, 0, n=32, peer=1", "send spm, 0, n=32, chan=1, peer=1"),
    "other bytes": ("send spm, 0, n=32, peer=1", "send spm, 0, n=28, peer=1"),
    "another tag": ("recv spm, 64, n=32, peer=1", "recv spm, 64, n=32, tag=3, peer=1"),
    "itself": ("send spm, 0, n=32, peer=1", "send spm, 0, n=32, peer=0"),
    "received from itself": ("recv spm, 64, n=32, peer=1", "recv spm, 64, n=32, peer=0"),
    "not there": ("send spm, 0, n=32, peer=1", "send spm, 0, n=32, peer=2"),
    "a circle": (
        "send spm, 0, n=32, peer={} wait(0)\nrecv spm, 64, n=32, peer={} signal(1)\n",
        "recv spm, 64, n=32, peer={} signal(1,2)\nsend spm, 0, n=32, peer={} wait(0,2)\n",
    ),
    "a circle in program order": (
        "send spm, 0, n=32, peer={} wait(0)\nrecv spm, 64, n=32, peer={} signal(1)\n",
        "recv spm, 64, n=32, peer={} signal(1)\nsend spm, 0, n=32, peer={} wait(0)\n",
    ),
    "a race": ("wait(1)", ""),
}


def faulty(name: str) -> Executable:
    before, after = FAULTS[name]
    text = EXCHANGE
    if "{}" in before:
        for peer in (1, 0):
            old, new = (t.format(peer, peer) for t in (before, after))
            assert old in text
            text = text.replace(old, new)
    else:
        assert before in text
        text = text.replace(before, after, 1)
        if name == "a race":
            text = text.replace(" signal(1)", "", 1)
    return assemble(text).executable


@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_match_or_end_is_refused_with_the_circle(name: str, golden: Any) -> None:
    assert not check_executable(assemble(EXCHANGE).executable).violations
    found = check_executable(faulty(name)).violations
    lines = [f"device {v.device} instruction {v.pc}: {v.rule}: {v.message}" for v in found]
    golden(f"errors/devices/{name}.txt", "\n".join(lines) + "\n")
    assert lines


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("name", [n for n in FAULTS if n not in ("a race", "a circle in program order")])
def test_the_machine_traps_where_the_checker_refuses(name: str, seed: int | None) -> None:
    with pytest.raises(MachineTrap) as caught:
        outputs(faulty(name), np.zeros((2, 1, WORDS), np.int32), seed)
    assert caught.value.record.code in ("DEADLOCK", "PEER", "UNMATCHED")


def test_a_queue_of_one_place_decides() -> None:
    """Two sends before two receives end where queues are deep, and are refused."""
    text = EXCHANGE
    for peer in (1, 0):
        send = f"send spm, 0, n=32, peer={peer} wait(0)\n"
        receive = f"recv spm, 64, n=32, peer={peer} signal(1)\n"
        assert send + receive in text
        more = f"recv spm, 128, n=32, peer={peer} signal(1)\nwait.st wait(1)\n"
        text = text.replace(send + receive, send + f"send spm, 0, n=32, peer={peer}\n" + receive + more)
    made = assemble(text).executable
    x = planes(2)[:, :1]
    np.testing.assert_array_equal(outputs(made, x, 5), x[::-1])
    (found,) = check_executable(made).violations
    assert found.rule == "DEADLOCK"


TOPOLOGIES: Final = {
    ("ring", 1): {(0, 1): 1, (0, 3): 3, (0, 4): 4, (0, 5): 3, (7, 0): 1, (6, 2): 4},
    ("mesh", 4): {(0, 3): 3, (0, 7): 4, (7, 0): 4, (5, 2): 2},
    ("full", 1): {(0, 7): 1, (3, 4): 1},
}


@pytest.mark.parametrize(("topology", "cols"), TOPOLOGIES)
def test_a_transfer_takes_the_links_of_its_way(topology: str, cols: int) -> None:
    net = load_target("edge32", [f"net.topology={topology}", f"net.cols={cols}"]).net
    for (source, destination), hops in TOPOLOGIES[topology, cols].items():
        way = route(net, 8, source, destination)
        assert len(way) == hops
        assert (way[0][0], way[-1][1]) == (source, destination)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(way))
    if topology == "ring":
        assert route(net, 8, 0, 4)[0] == (0, 1)
    if topology == "mesh":
        assert route(net, 8, 0, 7) == ((0, 1), (1, 2), (2, 3), (3, 7))


def ring(devices: int, count: int, size: int) -> str:
    """Every device passes bytes on, again and again."""
    step = (
        f"send spm, 0, n={size}, peer=1, rel=1\nrecv spm, 65536, n={size}, peer={devices - 1}, rel=1\nfence\n"
    )
    return (
        f".isa x1 0.2\n.target edge32\n.devices {devices}\nldf spm, 0, n={size}\nfence\n{step * count}halt\n"
    )


@pytest.mark.parametrize("devices", [2, 3, 8])
def test_steps_around_a_ring_take_what_the_formula_says(devices: int) -> None:
    """The receiver's readiness travels, then the bytes: twice the latency, the issue, the bytes by the link."""
    few, many, size = 3, 9, 6000
    target = load_target("edge32")
    begun, ended = (
        max(t.cycles for t in simulate_devices(assemble(ring(devices, n, size)).executable.devices()))
        for n in (few, many)
    )
    step = 2 * target.net.latency + target.ctl.issue + math.ceil(size / target.net.bytes_per_cycle)
    dispatched = 3  # send, recv and fence follow one another
    assert 0 <= (ended - begun) / (many - few) - step <= dispatched + target.ctl.issue


def test_transfers_over_one_link_take_turns() -> None:
    """Devices 0 and 1 send to device 2 around a ring of 5: the link from 1 to 2 serves one after the other."""
    size = 16000

    def body(device: int) -> str:
        if device == 2:
            return "".join(f"recv spm, {d * size}, n={size}, peer={d}, chan={d}\n" for d in (0, 1)) + "halt\n"
        sends = f"ldf spm, 0, n={size}\nfence\nsend spm, 0, n={size}, peer=2, chan={device}\n"
        return (sends if device < 2 else "") + "halt\n"

    made = assemble(by_device(5, body)).executable
    assert not check_executable(made).violations
    times = simulate_devices(made.devices())
    took = math.ceil(size / made.programs[0].target.net.bytes_per_cycle)
    receiver = times[2]
    assert receiver.start[1] - receiver.start[0] >= took
    assert times[1].stalls[Engine.TX]["peer"] >= took


def test_a_stream_of_runs_is_as_fast_as_the_slowest_device() -> None:
    """Device 1 works longer than device 0, and begins a run while device 0 is at the next."""
    work = [f"ldf spm, {1024 * n}, n=16384\n" for n in range(20)]

    def body(device: int) -> str:
        transfer = "send spm, 0, n=16, peer=1\n" if device == 0 else "recv spm, 0, n=16, peer=0\n"
        some = "".join(work[: len(work) // 2])
        return (f"{some}fence\n{transfer}" if device == 0 else f"{transfer}fence\n{''.join(work)}") + "halt\n"

    made = assemble(by_device(2, body)).executable
    times = simulate_devices(made.devices())
    alone = 20 * (4 + 16384 // 64)
    assert alone <= cycles_per_run(made.devices()) <= alone + 1100
    assert max(t.cycles for t in times) > 1.4 * alone


def test_texts_for_devices_that_cannot_be_are_refused(golden: Any) -> None:
    texts = {
        "too many": '.isa x1 0.2\n.target edge32 "net.devices=4"\n.devices 5\nhalt\n',
        "no whole rows": '.isa x1 0.2\n.target edge32 "net.topology=\'mesh\'" "net.cols=2"\n.devices 3\nhalt\n',
        "none": ".devices 0\nhalt\n",
        "late": "nop\n.devices 2\nhalt\n",
        "another": ".devices 2\n.device 2\nhalt\n",
        "no box": ".devices 2\n.tensor in x int8 [4] R2 box=[0,1,0,1,0,1,2,5]\nhalt\n",
    }
    shown: list[str] = []
    for text in texts.values():
        with pytest.raises(AssemblyError) as refused:
            assemble(text)
        shown.append(str(refused.value))
    golden("errors/devices/texts.txt", "\n".join(shown) + "\n")


def test_outputs_that_devices_hold_twice_or_not_at_all_are_refused() -> None:
    for bounds in ("0,1,0,1,0,1,0,8", "0,1,0,1,1,2,0,8"):
        text = EXCHANGE.replace(f"R3 box=[0,1,1,2,0,1,0,{WORDS}]", f"R3 box=[0,1,0,1,0,1,0,{WORDS}]")
        assert text != EXCHANGE, bounds
        with pytest.raises(BinaryError, match="not all of it"):
            load_executable(save(assemble(text).executable))


OPERANDS: Final = {
    "send prm, 0, n=32, peer=1": "space=prm is not transferred",
    "recv prm, 0, n=32, peer=1": "space=prm is not transferred",
    "send acc, 0, n=132, peer=1": "n0=132 is not whole words",
    "send acc, 0, n=30, peer=1": "n0=30 is not whole words",
    "send sreg, 1, n=8, n1=2, ls1=2, peer=1": "registers are one run",
    "recv sreg, 0, n=8, peer=1": "s0",
    "recv spm, 0, n=30, peer=1, add32": "n0=30 is not whole words",
    "recv spm, 0, n=32, n1=2, ls1=34, peer=1, max32": "ls1=34 is not whole words",
    "recv spm, 0, n=32, n1=2, ls1=16, peer=1": "writes a byte twice",
    "send spm, 0, n=32, peer=1024": "peer=1024 is above",
    "send spm, 524280, n=32, peer=1": "reads bytes",
    "sid": "rd=0",
}


@pytest.mark.parametrize("line", OPERANDS)
def test_operands_of_transfers_that_are_not_allowed_are_refused(line: str) -> None:
    with pytest.raises(AssemblyError) as refused:
        assemble(f".devices 2\n{line}\nhalt\n")
    assert OPERANDS[line] in str(refused.value)


def test_transfers_need_their_extension() -> None:
    with pytest.raises(AssemblyError, match="extension N"):
        assemble(".target edge32 \"target.ext=['T']\"\nsid rd=1\nhalt\n")
