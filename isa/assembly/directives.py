"""The directives of assembly: each acts on what the file has said so far."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Final, cast

import numpy as np
from lark import Token, Tree

from isa.assembly.state import (
    DATA_SECTIONS,
    TEXT_SECTION,
    Assembly,
    BadTarget,
    Mistake,
    add_data,
    address,
    data_before,
    data_section,
    default_target,
    define,
    evaluate,
    named_file,
    require_room,
)
from isa.executable import TRAINING_STREAMS
from isa.memory_map import DATA_REGIONS, SIZED_REGIONS, Region, Space, memory_size
from isa.program import (
    HOST_DTYPES,
    MAIN_STREAM,
    Box,
    Interface,
    OpRow,
    Symbol,
    bits_float,
    box_shape,
    first_overlap,
    float_bits,
    lies_in,
    volume,
)
from isa.soundness import HOST_CAP
from isa.spec import Engine
from isa.support.diagnostics import TargetError
from isa.support.parsing import Parsed as Node
from isa.support.paths import read_file
from isa.target import MAX_DEVICES, Target, device_fault, load_target
from isa.versions import ISA_VERSION

_REGION_OF: Final = {"in": Region.INPUT, "out": Region.OUTPUT}
_DECLARABLE: Final = sorted((*DATA_REGIONS, *SIZED_REGIONS))
_FLOAT_WORDS: Final = {"inf": float("inf"), "nan": float("nan")}


def _tokens(tree: Node) -> list[Token]:
    return [c for c in tree.children if isinstance(c, Token)]


def _strings(tree: Node) -> list[str]:
    return [str(t)[1:-1] for t in _tokens(tree) if t.type == "STRING"]


def _isa(state: Assembly, tree: Node) -> None:
    name, version = _tokens(tree)
    if (name, version) != ("x1", ISA_VERSION):
        raise Mistake(f"the text is for {name} {version}", tree, allowed=f"x1 {ISA_VERSION}")
    del state


def _target(state: Assembly, tree: Node) -> None:
    if state.target is not None:
        raise Mistake("the target is named twice", tree)
    token = _tokens(tree)[0]
    name = str(token)[1:-1] if token.type == "STRING" else str(token)
    overrides = _strings(tree)[1 if token.type == "STRING" else 0 :]
    if name.endswith(".toml"):
        named_file(state, name, token)
    try:
        state.target = load_target(name, overrides, folder=state.here)
    except TargetError as error:
        state.target = default_target()  # what follows from it is not reported
        raise BadTarget(token, error) from None


def _core(state: Assembly, tree: Node) -> None:
    if evaluate(state, tree.children[0]) != 0:
        raise Mistake("there is one core", tree, allowed="0")


def _equ(state: Assembly, tree: Node) -> None:
    define(state, cast("Token", tree.children[0]), evaluate(state, tree.children[1]))


def _buf(state: Assembly, tree: Node) -> None:
    name, space = cast("Token", tree.children[0]), cast("Token", tree.children[1])
    spaces = [s.name.lower() for s in (Space.SPM, Space.ACC, Space.PRM)]
    if space not in spaces:
        raise Mistake(f"'{space}' is no memory on the chip", space, allowed=", ".join(spaces))
    value, size = (evaluate(state, c) for c in tree.children[2:])
    define(state, name, value)
    if size < 1:
        raise Mistake(f"the buffer '{name}' has {size} bytes", tree, allowed="at least 1")

    def require_room_for(target: Target) -> None:
        limit = memory_size(target, Space[space.upper()])
        if value + size > limit:
            raise Mistake(f"the buffer '{name}' ends at {value + size}", tree, allowed=f"at most {limit}")

    state.defer(require_room_for)
    if space == "spm":
        state.listed.append((state.device, Symbol(str(name), "", value, size)))


def _sems(state: Assembly, tree: Node) -> None:
    engines = [e.name for e in Engine]
    for sem in cast("list[Node]", tree.children):
        name, *ends = _tokens(sem)
        for end in ends:
            if end not in engines:
                raise Mistake(f"'{end}' is no engine", end, allowed=", ".join(engines))
        if name in state.semaphores:
            raise Mistake(f"the semaphore '{name}' is declared twice", name)
        _require_semaphore(state, len(state.semaphores), name)
        state.semaphores[str(name)] = len(state.semaphores)


def _require_semaphore(state: Assembly, number: int, name: Token) -> None:
    def require(target: Target) -> None:
        if number >= target.ctl.sems:
            text = f"'{name}' is semaphore {number}"
            raise Mistake(text, name, allowed=f"the {target.ctl.sems} of the target")

    state.defer(require)


def _region(state: Assembly, tree: Node) -> None:
    number, size = (evaluate(state, c) for c in tree.children)
    if number not in _DECLARABLE:
        raise Mistake(
            f"the size of region {number} is not declared",
            tree,
            allowed=", ".join(f"{r} ({r.name.lower()})" for r in _DECLARABLE),
        )
    if size < 0:
        raise Mistake(f"the size {size} is negative", tree)
    state.sizes[Region(number)] = size

    def require_fits(target: Target) -> None:
        limit = min(target.dram.size, HOST_CAP)
        if size > limit:
            raise Mistake(f"region {number} has {size} bytes", tree, allowed=f"at most the {limit} of DRAM")

    state.defer(require_fits)


def _op(state: Assembly, tree: Node) -> None:
    number = evaluate(state, tree.children[0])
    names = tuple(_strings(tree))
    text = state.text
    if number not in text.ops:
        text.ops[number] = OpRow(number, names[0] if names else f"op{number}", names, (), (), ())
    text.current_op = number


def _stream(state: Assembly, tree: Node) -> None:
    name = _tokens(tree)[0]
    if name not in TRAINING_STREAMS:
        raise Mistake(f"there is no stream '{name}'", name, allowed=", ".join(TRAINING_STREAMS))
    if any(stream == MAIN_STREAM for stream, _ in state.streams):
        text = "the text has instructions, operators or tensors of no stream"
        raise Mistake(text, tree, remedy="name a stream before them")
    state.stream, state.section = str(name), TEXT_SECTION


def _devices(state: Assembly, tree: Node) -> None:
    count = evaluate(state, tree.children[0])
    if state.streams or state.sections or state.devices > 1:
        raise Mistake("the number of devices is given too late, or twice", tree, remedy="give it first")
    if not 1 <= count <= MAX_DEVICES:
        raise Mistake(f"there are {count} devices", tree, allowed=f"1 to {MAX_DEVICES}")

    def require(target: Target) -> None:
        if fault := device_fault(target, count):
            raise Mistake(fault.message, tree, allowed=fault.allowed, remedy=fault.remedy)

    state.devices = count
    state.defer(require)


def _device(state: Assembly, tree: Node) -> None:
    number = evaluate(state, tree.children[0])
    if not 0 <= number < state.devices:
        allowed = f"0 to {state.devices - 1}" if state.devices > 1 else ""
        raise Mistake(f"there is no device {number}", tree, allowed=allowed, remedy="see .devices")
    state.device, state.section = number, TEXT_SECTION


def _section(state: Assembly, tree: Node) -> None:
    state.section = str(tree.children[0])


def _incbin(state: Assembly, tree: Node) -> None:
    name = _strings(tree)[0]
    place = named_file(state, name, tree)
    require_room(state, tree, place.stat().st_size)
    content = read_file(place)
    if state.section in DATA_SECTIONS:
        data_section(state, tree).extend(content)
    elif state.section == TEXT_SECTION:
        raise Mistake(
            "'.incbin' in .text is not allowed",
            tree,
            remedy="write instructions, or name a section with .section",
        )
    else:
        state.raw[state.section] = content


def _align(state: Assembly, tree: Node) -> None:
    unit = evaluate(state, tree.children[0])
    if not 1 <= unit <= 4096:
        raise Mistake(f"the alignment {unit} is outside 1..4096", tree)
    data = data_section(state, tree)
    add_data(state, tree, bytes(-(data_before(state) + len(data)) % unit))


def _byte(state: Assembly, tree: Node) -> None:
    for child in tree.children:
        value = evaluate(state, child)
        if not -128 <= value <= 255:
            raise Mistake(f"{value} is no byte", cast("Node", child), allowed="-128..255")
        add_data(state, tree, bytes([value & 0xFF]))


def _int(state: Assembly, tree: Node) -> None:
    for child in tree.children:
        add_data(state, tree, _int32(state, child))


def _int32(state: Assembly, node: Node | Token) -> bytes:
    value = evaluate(state, node)
    if not -(1 << 31) <= value < 1 << 31:
        raise Mistake(f"{value} is no int32", node)
    return struct.pack("<i", value)


def _float(state: Assembly, node: Node | Token) -> float:
    assert isinstance(node, Tree)
    *sign, token = _tokens(node)
    text = str(token)
    if token.type == "NAME":
        if text not in _FLOAT_WORDS:
            raise Mistake(f"'{text}' is no number", token, allowed="a decimal or hexadecimal float")
        value = _FLOAT_WORDS[text]
    else:
        value = _finite(token)
    del state
    return -value if sign else value


def _finite(token: Token) -> float:
    """The value of a decimal or hexadecimal number that float32 can hold."""
    text = str(token)
    try:
        value = float.fromhex(text) if text.startswith("0x") and "p" in text else float(text)
    except (ValueError, OverflowError):
        value = math.nan
    with np.errstate(over="ignore"):
        held = np.isfinite(np.float32(value))
    if not held:
        raise Mistake("the number does not fit into float32", token)
    return value


def _float_data(state: Assembly, tree: Node) -> None:
    for child in tree.children:
        add_data(state, tree, np.float32(_float(state, child)).tobytes())


def _record(state: Assembly, tree: Node) -> None:
    bias, scale = tree.children
    value = _float(state, scale)
    if not math.isfinite(value) or math.copysign(1.0, value) < 0:
        raise Mistake(f"the multiplier {value:g} is not allowed", scale, allowed="finite, 0 or more")
    add_data(state, tree, _int32(state, bias) + np.float32(value).tobytes())


def _tensor(state: Assembly, tree: Node) -> None:
    direction, name, dtype = _tokens(tree)[:3]
    rest = [c for c in tree.children if isinstance(c, Tree)]
    if direction not in ("in", "out"):
        raise Mistake(f"'{direction}' is no direction", direction, allowed="in, out")
    if dtype not in HOST_DTYPES:
        raise Mistake(f"a tensor of dtype '{dtype}'", dtype, allowed=", ".join(HOST_DTYPES))
    shape = tuple(evaluate(state, c) for c in rest[0].children)
    region, offset = address(state, rest[1])
    if region != _REGION_OF[direction]:
        raise Mistake(
            f"an {direction}put lies in region {region}", rest[1], allowed=f"R{_REGION_OF[direction]}"
        )
    options = _options(state, rest[2:])
    perm = options.get("perm", tuple(range(len(shape))))
    scale, zero = options.get("scale"), options.get("zp", 0.0)
    if not isinstance(perm, tuple) or sorted(perm) != list(range(len(shape))):
        raise Mistake("perm is no permutation of the dimensions", tree)
    if isinstance(scale, tuple) or isinstance(zero, tuple) or not shape or min(shape) < 1:
        raise Mistake("the tensor has no such shape, scale or zero point", tree)
    device = _device_shape(shape, perm, tree)
    device_dtype = "int8" if scale is not None else str(dtype)
    element = 4 if device_dtype == "int32" else 1
    if dtype == "float32" and scale is None:
        raise Mistake("a float32 tensor needs scale= and zp=", tree)
    _require_quantization(device_dtype, scale, zero, tree)
    box = _box(options.get("box"), device, tree)
    held = device if box is None else box_shape(box)
    tensor = Interface(
        name=str(name)[1:-1] if name.type == "STRING" else str(name),
        dtype=str(dtype),
        shape=shape,
        device_dtype=device_dtype,
        device_shape=device,
        perm=perm,
        pixel_stride=held[3] * element,
        scale_bits=None if scale is None else float_bits(scale),
        zero_point=int(zero),
        region=region,
        offset=offset,
        bytes=volume(held) * element,
        box=box,
    )
    _add_tensor(state, str(direction), tensor, name, tree)


def _box(numbers: object, shape: Sequence[int], tree: Node) -> Box | None:
    """The half-open box that bounds give, two for each dimension; None where none are given."""
    if numbers is None:
        return None
    bounds = cast("tuple[int, ...]", numbers if isinstance(numbers, tuple) else ())
    box = tuple(zip(bounds[::2], bounds[1::2], strict=False))
    if len(bounds) != 2 * len(shape) or not lies_in(box, shape):
        raise Mistake("the tensor has no such box", tree, allowed=f"bounds within {list(shape)}")
    return box


def _device_shape(shape: Sequence[int], perm: Sequence[int], tree: Node) -> tuple[int, int, int, int]:
    """The shape of a tensor on the device: permuted, ones in front."""
    permuted = [shape[p] for p in perm]
    if len(permuted) > 4:
        raise Mistake(f"the tensor has {len(shape)} dimensions", tree, allowed="at most 4")
    n, h, w, c = (*(1,) * (4 - len(permuted)), *permuted)
    return n, h, w, c


def _require_quantization(device_dtype: str, scale: float | None, zero: float, tree: Node) -> None:
    """A scale and a zero point that the type allows."""
    low, high = (-128, 127) if device_dtype == "int8" else (0, 255)
    if (
        not low <= zero <= high
        or zero != int(zero)
        or not 0 < bits_float(float_bits(scale or 1.0)) < math.inf
    ):
        raise Mistake(
            "the tensor has a scale or zero point that its type does not allow",
            tree,
            allowed=f"a positive finite scale, a whole zero point from {low} to {high}",
        )


def _add_tensor(state: Assembly, direction: str, tensor: Interface, name: Token, tree: Node) -> None:
    both = (*state.before().tensors, *state.text.tensors)
    earlier = [t for d, t in both if d == direction]
    if tensor.name in (t.name for t in earlier):
        raise Mistake(f"the {direction}put '{tensor.name}' is declared twice", name)
    if direction == "in" and (pair := first_overlap([*earlier, tensor])):
        raise Mistake(f"the inputs '{pair[0].name}' and '{pair[1].name}' share bytes", tree)
    state.text.tensors.append((direction, tensor))


def _options(state: Assembly, nodes: list[Node]) -> dict[str, float | tuple[int, ...]]:
    found: dict[str, float | tuple[int, ...]] = {}
    for node in nodes:
        name, value = cast("Token", node.children[0]), cast("Node", node.children[1])
        if name not in ("perm", "scale", "zp", "box"):
            raise Mistake(f"a tensor has no option '{name}'", name, allowed="perm, scale, zp, box")
        if value.data == "shape":
            found[str(name)] = tuple(evaluate(state, c) for c in value.children)
        else:
            found[str(name)] = _float(state, value)
    return found


DIRECTIVES: Final[dict[str, Callable[[Assembly, Node], None]]] = {
    "isa": _isa,
    "target": _target,
    "core": _core,
    "equ": _equ,
    "buf": _buf,
    "sems": _sems,
    "region": _region,
    "op": _op,
    "stream": _stream,
    "devices": _devices,
    "device": _device,
    "section": _section,
    "incbin": _incbin,
    "align": _align,
    "byte": _byte,
    "int": _int,
    "float_data": _float_data,
    "record": _record,
    "tensor": _tensor,
}
