"""Whether the tables of a program are sound: the interface against the regions, the map against the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from isa.memory_map import Region
from isa.program import (
    HOST_DTYPES,
    Abi,
    Interface,
    MapRow,
    Program,
    TensorRow,
    box_shape,
    box_slices,
    first_overlap,
    lies_in,
    stored_access,
    volume,
)
from isa.support.record_json import RecordError
from isa.support.records import replace

HOST_CAP: Final = 4 << 30
"""The host never allocates more than this for the regions of one program."""
DEVICE_DTYPES: Final = ("int8", "uint8", "int32")
OUTPUT_DTYPES: Final = ("float32", *DEVICE_DTYPES)
"""Of results: real ones come from extension T."""
DEVICE_RANK: Final = 4
MAX_RANK: Final = 16
MAX_STEPS: Final = 64


def check_tables(program: Program) -> None:
    """Check the interface and the debug map of a program that has been read from a file.

    Raises:
        RecordError: a row says what cannot be.
    """
    _check_interface(program)
    _check_debug(program)


def check_interfaces(programs: Sequence[Program]) -> None:
    """Check that the programs of several devices have the same inputs and outputs, and all of each output.

    Raises:
        RecordError: a row says what cannot be.
    """
    for stream in {p.stream for p in programs}:
        abis = [p.abi for p in programs if p.stream == stream]
        for what, sides in (("input", [a.inputs for a in abis]), ("output", [a.outputs for a in abis])):
            if any([_host_view(t) for t in side] != [_host_view(t) for t in sides[0]] for side in sides):
                raise RecordError(f"the devices of {stream} have different {what}s")
            for rows in zip(*sides, strict=True):
                if any(row.box is None for row in rows):
                    raise RecordError(f"{what} '{rows[0].name}' has no box on a device")
                if what == "output" and not _is_whole(rows):
                    raise RecordError(f"the boxes of the output '{rows[0].name}' are not all of it")


def _host_view(tensor: Interface) -> Interface:
    """A row without what is the device's own."""
    return replace(tensor, region=Region.INPUT, offset=0, bytes=0, pixel_stride=0, device=0, box=None)


def _is_whole(rows: Sequence[Interface]) -> bool:
    """Whether every element lies in the box of one device."""
    times = np.zeros(rows[0].device_shape, np.uint8)
    for row in rows:
        if row.box is not None:
            times[box_slices(row.box)] += 1
    return bool((times == 1).all())


def _check_interface(program: Program) -> None:
    """Every input and output lies inside its region, in a form that the host can convert."""
    if program.abi.regions != program.region_rows():
        raise RecordError("the region table of .x1.abi is not that of the sections")
    sizes = program.region_sizes()
    for tensors, region, writer in (
        (program.abi.inputs, Region.INPUT, "input"),
        (program.abi.outputs, Region.OUTPUT, "output"),
    ):
        for tensor in tensors:
            given = writer == "output" and tensor.region in (Region.WEIGHTS, Region.INPUT)
            allowed = Region(tensor.region) if given else region
            _check_tensor(tensor, allowed, sizes.get(allowed, 0), writer)
            if given and allowed is Region.INPUT and program.abi.returned_input(tensor) is None:
                raise RecordError(f"the output '{tensor.name}' is no input")
    if pair := first_overlap(program.abi.inputs):
        raise RecordError(f"the inputs '{pair[0].name}' and '{pair[1].name}' share bytes")
    _check_interface_names(program.abi)


def _check_interface_names(abi: Abi) -> None:
    """Rows of one input are one tensor of the host; an output has one row."""
    hosts = {t.name: (t.dtype, t.shape) for t in abi.inputs}
    for tensor in abi.inputs:
        if hosts[tensor.name] != (tensor.dtype, tensor.shape):
            raise RecordError(f"two inputs have the name '{tensor.name}'")
    if len({t.name for t in abi.outputs}) != len(abi.outputs):
        raise RecordError("two outputs have the same name")


def _check_tensor(tensor: Interface, region: Region, limit: int, writer: str) -> None:
    what = f"{writer} '{tensor.name}'"
    if tensor.dtype not in HOST_DTYPES:
        raise RecordError(f"{what} has the dtype {tensor.dtype!r}; allowed: {', '.join(HOST_DTYPES)}")
    stored = OUTPUT_DTYPES if region is Region.OUTPUT else HOST_DTYPES
    if tensor.device_dtype not in stored:
        raise RecordError(
            f"{what} has the device dtype {tensor.device_dtype!r}; allowed: {', '.join(stored)}"
        )
    _check_layout(tensor, what, 0 if region is Region.WEIGHTS else 1)
    if tensor.region != region or tensor.offset < 0 or tensor.offset + tensor.bytes > limit:
        raise RecordError(f"{what} lies outside its region")
    _check_conversion(tensor, what)


def _check_layout(tensor: Interface, what: str, least: int) -> None:
    """Host and device have the same elements, the device's in pixels that are a stride apart.

    `least` is the least extent of a dimension: a constant may be empty.
    """
    if len(tensor.device_shape) != DEVICE_RANK:
        raise RecordError(f"{what} has a shape that no device tensor has")
    _size(tensor.device_shape, what, least)
    if tensor.box is not None and not lies_in(tensor.box, tensor.device_shape, least=0):
        raise RecordError(f"{what} has a box that leaves it")
    if sorted(tensor.perm) != list(range(len(tensor.perm))) or len(tensor.perm) != len(tensor.shape):
        raise RecordError(f"{what} has a permutation that is none")
    pixels, channels = volume(tensor.held_shape[:3]), tensor.held_shape[3]
    too_narrow = tensor.pixel_stride < channels * tensor.element_bytes
    if _size(tensor.shape, what, least) != volume(tensor.device_shape) or too_narrow:
        raise RecordError(f"{what} has different sizes on host and device")
    if tensor.bytes != pixels * tensor.pixel_stride:
        raise RecordError(f"{what} has a byte count that its shape does not give")


def _check_conversion(tensor: Interface, what: str) -> None:
    """The host can convert the one type to the other, with this scale and zero point."""
    scale = tensor.scale
    if scale is not None and not 0 < float(scale) < float("inf"):
        raise RecordError(f"{what} has a scale that is not finite and positive")
    low, high = (0, 255) if tensor.device_dtype == "uint8" else (-128, 127)
    if not low <= tensor.zero_point <= high:
        raise RecordError(f"{what} has a zero point outside {low}..{high}")
    exact = scale is None and (
        tensor.dtype == tensor.device_dtype or (tensor.dtype, tensor.device_dtype) == ("int64", "int32")
    )
    real = scale is not None and tensor.dtype == "float32" and tensor.device_dtype in ("int8", "uint8")
    if not exact and not real:
        raise RecordError(f"{what} has no conversion from {tensor.dtype} to {tensor.device_dtype}")


def _check_debug(program: Program) -> None:
    """Rows name instructions, operators, tensors and operands that exist."""
    ops = {o.id for o in program.operators.ops}
    tensors = {t.id: t for t in program.operators.tensors}
    if len(ops) != len(program.operators.ops) or len(tensors) != len(program.operators.tensors):
        raise RecordError(".x1.ops has two rows with the same id")
    for tensor in tensors.values():
        _check_row(tensor, tensors)
    end = 0
    for row in program.debug.rows:
        if row.first < end or row.count < 1 or row.first + row.count > len(program.instructions):
            raise RecordError(".x1.map has rows out of order or beyond the program")
        end = row.first + row.count
        if row.core != 0 or row.op not in ops:
            raise RecordError(f".x1.map: the row at {row.first} is of no operator or core")
        if row.tensor is not None:
            _check_stored(program, row, tensors.get(row.tensor))
    for given in (*program.abi.inputs, *program.abi.outputs):
        if given.tensor is not None and (
            given.tensor not in tensors or tensors[given.tensor].shape != given.device_shape
        ):
            raise RecordError(f".x1.abi: '{given.name}' is not the tensor that it names")


def _check_stored(program: Program, row: MapRow, held: TensorRow | None) -> None:
    """A row that stores a box of a device tensor names an operand that holds it."""
    if held is None or held.alias_of is not None or row.box is None or row.operand is None:
        raise RecordError(f".x1.map: the row at {row.first} stores no tensor that is listed")
    if not lies_in(row.box, held.shape):
        raise RecordError(f".x1.map: the box at {row.first} leaves its tensor")
    last = row.first + row.count - 1
    access = stored_access(program.instructions[last], program.target, row)
    if access is None or access.size() != volume(box_shape(row.box)) * np.dtype(held.dtype).itemsize:
        raise RecordError(f".x1.map: the instruction at {last} holds no such box in '{row.operand}'")


def _check_row(tensor: TensorRow, tensors: Mapping[int, TensorRow]) -> None:
    """A device tensor has a shape of four dimensions; any other is such a one taken through its steps."""
    what = f".x1.ops: tensor '{tensor.name or tensor.id}'"
    if tensor.dtype not in DEVICE_DTYPES:
        raise RecordError(f"{what} has the dtype {tensor.dtype!r}; allowed: {', '.join(DEVICE_DTYPES)}")
    holder = tensors.get(tensor.id if tensor.alias_of is None else tensor.alias_of)
    if holder is None or holder.alias_of is not None or holder.dtype != tensor.dtype:
        raise RecordError(f"{what} is an alias of no tensor with bytes")
    if tensor.alias_of is None and (len(tensor.shape) != DEVICE_RANK or tensor.steps):
        raise RecordError(f"{what} has a shape that no device tensor has")
    if len(tensor.steps) > MAX_STEPS:
        raise RecordError(f"{what} has {len(tensor.steps)} steps; allowed: at most {MAX_STEPS}")
    size = _size(holder.shape, what)
    if tensor.box is not None:
        if tensor.alias_of is None or not lies_in(tensor.box, holder.shape):
            raise RecordError(f"{what} is no box of the tensor that it is an alias of")
        size = volume(box_shape(tensor.box))
    _check_steps(tensor, size, what)


def _check_steps(tensor: TensorRow, size: int, what: str) -> None:
    """Every step, and the shape at the end, has as many elements as what it begins with."""
    for shape, perm in tensor.steps:
        if sorted(perm) != list(range(len(shape))):
            raise RecordError(f"{what} has a permutation that is none")
        if _size(shape, what) != size:
            raise RecordError(f"{what} has shapes of different sizes")
    if _size(tensor.shape, what) != size:
        raise RecordError(f"{what} has shapes of different sizes")


def _size(shape: Sequence[int], what: str, least: int = 1) -> int:
    """The number of elements of a shape that may be allocated."""
    if (
        len(shape) > MAX_RANK
        or any(d < least for d in shape)
        or volume([max(d, 1) for d in shape]) > HOST_CAP
    ):
        raise RecordError(
            f"{what} has the shape {list(shape[:MAX_RANK])}; allowed: at most {MAX_RANK} dimensions of at "
            f"least {least}, {HOST_CAP} elements"
        )
    return volume(shape)
