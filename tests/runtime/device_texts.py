"""Programs for several devices, as assembly."""

from __future__ import annotations

from collections.abc import Callable

WORDS = 8
"""Words of a chunk."""
CHUNK = 4 * WORDS


def by_device(devices: int, body: Callable[[int], str], target: str = "edge32") -> str:
    """A text with lines for each device."""
    head = f".isa x1 0.2\n.target {target}\n.devices {devices}\n"
    return head + "".join(f".device {d}\n{body(d)}" for d in range(devices))


def tensors(device: int, devices: int, chunks: int) -> str:
    """A device has its plane of x and of y: so many chunks of words."""
    box = f"box=[0,1,{device},{device + 1},0,{chunks},0,{WORDS}]"
    shape = f"int32 [{devices},{chunks},{WORDS}]"
    return f".tensor in x {shape} R2 {box}\n.tensor out y {shape} R3 {box}\n"


def all_reduce(devices: int, fn: str = "add32", space: str = "acc", target: str = "edge32") -> str:
    """Every device gets the sum, or the maximum, of the planes of all: scattered around a ring, then gathered."""
    unit = 1 if space == "acc" else CHUNK
    steps = devices - 1

    def transfer(kind: str, peer: int, chunk: int, rest: str) -> str:
        place = chunk % devices * unit
        return f"{kind} {space}, {place}, n={CHUNK}, peer={peer % devices}, rel=1, chan=3 {rest}\n"

    def body(device: int) -> str:
        whole = f"{space}, 0, {{}}, n={CHUNK}, n1={devices}, ds1={CHUNK}, ls1={unit}"
        lines = [tensors(device, devices, devices), f"ld {whole.format('R2')} signal(0,1)\n"]
        for step in range(steps):  # chunk device - step has been sent before it comes back whole
            gets = "wait(1) signal(2)" if step == 0 else "signal(2)"
            gives = "wait(0) signal(5)" if step == 0 else "wait(2) signal(5)"
            lines.append(transfer("send", 1, device - step, f", tag={step} {gives}"))
            lines.append(transfer("recv", -1, device - step - 1, f", tag={step}, {fn} {gets}"))
        for step in range(steps):
            signal = "signal(4)" if step == steps - 1 else "signal(2)"
            lines.append(transfer("send", 1, device + 1 - step, "wait(2)"))
            lines.append(transfer("recv", -1, device - step, f"wait(5) {signal}"))
        return "".join([*lines, f"st {whole.format('R3')} wait(4)\nhalt\n"])

    return by_device(devices, body, target)
