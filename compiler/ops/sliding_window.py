"""What operators with a sliding window share: layouts, pads, windows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from compiler.ir.graph import Node
from compiler.ir.op import ShapeError
from compiler.ir.types import Shape, TensorType
from compiler.ops.shapes import Reshape
from compiler.rules.exporting import OnnxWriter, write_clip
from compiler.rules.importing import LayerCall, OnnxNode
from isa.program import Box
from isa.support.records import replace

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
"""Top, left, bottom, right."""
TO_NHWC: Final = (0, 2, 3, 1)
MAX_PAD: Final = 4096
MAX_WINDOW: Final = 1 << 20
TO_NCHW: Final = (0, 3, 1, 2)


def image_shape(shape: Shape, layout: str) -> tuple[int, int, int, int]:
    """(n, h, w, c) of an activation in either layout."""
    if len(shape) != 4:
        raise ShapeError(f"the input has the shape {list(shape)}", "rank 4")
    n, a, b, c = shape
    return (n, b, c, a) if layout == "NCHW" else (n, a, b, c)


def shape_in(layout: str, n: int, h: int, w: int, c: int) -> Shape:
    """The shape of an activation in a layout."""
    return (n, c, h, w) if layout == "NCHW" else (n, h, w, c)


def require_geometry(layout: str, pads: Pads, *positive: Pair) -> None:
    """Attributes of an operation with a window that make sense.

    Raises:
        ShapeError: an unknown layout, a pad outside 0..4096, or a kernel, stride or dilation below 1.
    """
    if layout not in ("NCHW", "NHWC"):
        raise ShapeError(f"the layout '{layout}' is not known", "NCHW, NHWC")
    if min(pads) < 0 or max(pads) > MAX_PAD:
        raise ShapeError(f"pads={list(pads)} are not allowed", f"four numbers from 0 to {MAX_PAD}")
    if any(not 1 <= v <= MAX_WINDOW for pair in positive for v in pair):
        raise ShapeError(
            f"kernel, strides or dilations {[list(p) for p in positive]} are not allowed",
            f"1 to {MAX_WINDOW}",
        )


def require_codes(bounds: Pair) -> None:
    """Clamp bounds of an 8-bit result.

    Raises:
        ShapeError: they are no codes, or in the wrong order.
    """
    if not -128 <= bounds[0] <= bounds[1] <= 255:
        raise ShapeError(f"bounds={list(bounds)} are not allowed", "codes, low <= high")


def zero_of(kind: TensorType) -> int:
    """The zero point of a quantized tensor."""
    assert kind.quant is not None
    return kind.quant.zero_point


def scale_of(kind: TensorType) -> float:
    """The scale of a quantized tensor that has one."""
    assert kind.quant is not None
    return kind.quant.scale


def scales_of(kind: TensorType) -> NDArray[np.float32]:
    """The scales of a quantized tensor: one, or one per channel."""
    assert kind.quant is not None
    return kind.quant.array


def nhwc(x: NDArray[Any], layout: str) -> NDArray[Any]:
    """The array with channels last."""
    return x.transpose(TO_NHWC) if layout == "NCHW" else x


def from_nhwc(x: NDArray[Any], layout: str) -> NDArray[Any]:
    """An array with channels last, in a layout."""
    return np.ascontiguousarray(x.transpose(TO_NCHW)) if layout == "NCHW" else x


def window_output(extent: int, taps: int, stride: int, dilation: int, before: int, after: int) -> int:
    """How many windows fit.

    Raises:
        ShapeError: none does.
    """
    count = (extent + before + after - (taps - 1) * dilation - 1) // stride + 1
    if count < 1:
        raise ShapeError(
            f"a window of {(taps - 1) * dilation + 1} does not fit into {extent} + {before} + {after}"
        )
    return count


def pooled_shape(
    shape: Shape, layout: str, kernel: Pair, strides: Pair, pads: Pads, dilations: Pair = (1, 1)
) -> Shape:
    """The shape after pooling.

    Raises:
        ShapeError: a window does not fit or lies in the padding alone.
    """
    require_geometry(layout, pads, kernel, strides, dilations)
    n, h, w, c = image_shape(shape, layout)
    oh = window_output(h, kernel[0], strides[0], dilations[0], pads[0], pads[2])
    ow = window_output(w, kernel[1], strides[1], dilations[1], pads[1], pads[3])
    for extent, count, taps, stride, before, after in (
        (h, oh, (kernel[0] - 1) * dilations[0] + 1, strides[0], pads[0], pads[2]),
        (w, ow, (kernel[1] - 1) * dilations[1] + 1, strides[1], pads[1], pads[3]),
    ):
        if before >= taps or after >= taps or (count - 1) * stride - before >= extent:
            raise ShapeError(f"a pooling window of {taps} lies in padding alone", "pads less than the window")
    return shape_in(layout, n, oh, ow, c)


def windows(
    x: NDArray[Any], kernel: Pair, strides: Pair, dilations: Pair, pads: Pads, padding: float
) -> NDArray[Any]:
    """Every window of an NHWC array, as (n, oh, ow, c, kh, kw)."""
    padded = np.pad(
        x, ((0, 0), (pads[0], max(pads[2], 0)), (pads[1], max(pads[3], 0)), (0, 0)), constant_values=padding
    )
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    view = sliding_window_view(padded, reach, (1, 2))
    return view[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]


def tap_places(kernel: Pair, strides: Pair, dilations: Pair, out: Pair) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the padded image that all windows see through a tap, tap by tap, row by row."""
    for tap in itertools.product(range(kernel[0]), range(kernel[1])):
        first = [t * d for t, d in zip(tap, dilations, strict=True)]
        rows, columns = (
            slice(f, f + (n - 1) * s + 1, s) for f, n, s in zip(first, out, strides, strict=True)
        )
        yield rows, columns


def pooling_pads(n: OnnxNode, extents: Pair, kernel: Pair, strides: Pair, dilations: Pair) -> Pads:
    """The pads of an ONNX pooling: those of auto_pad are of a window without dilations, as ONNX Runtime's."""
    same = n.text("auto_pad", "NOTSET").startswith("SAME")
    return onnx_pads(n, extents, kernel, strides, (1, 1) if same else dilations)


def pooling_steps(kernel: Pair) -> int:
    """What a window takes at least: its taps, or its rows and columns one after the other."""
    return min(kernel[0] * kernel[1], kernel[0] + kernel[1])


def one_dimensional(n: OnnxNode, rule: Callable[[OnnxNode], Node]) -> Node:
    """An operator on (n, c, length): the same on images of one row."""
    x = n.operand(0)
    (batch, channels, length) = x.shape
    attributes = dict(n.attributes)
    for name, idle in (
        ("kernel_shape", 1),
        ("strides", 1),
        ("dilations", 1),
        ("output_padding", 0),
        ("output_shape", 1),
    ):
        if name in attributes:
            attributes[name] = [idle, *attributes[name]]
    if "pads" in attributes:
        pads = list(attributes["pads"])
        if len(pads) != 2:
            n.fail(f"pads={pads} are not allowed", "two numbers")
        attributes["pads"] = [0, pads[0], 0, pads[1]]
    operands = list(n.operands)
    operands[0] = n.before(Reshape((batch, channels, 1, length)), x, suffix="image")
    if len(operands) > 1 and operands[1] is not None:
        w = n.parameter(1, "the weight")
        if len(w.shape) != 3:
            n.fail(f"weights of shape {list(w.shape)} for an input of rank 3", "rank 3")
        operands[1] = n.mapped(w, lambda v, _: v[:, :, None], 0, "weight.image")
    inner = replace(n, operands=operands, attributes=attributes, output=n.unused("image.result"))
    made = rule(inner)
    shape = (made.shape[0], made.shape[1], made.shape[3])
    return n.add(Reshape(shape), made)


def onnx_pads(n: OnnxNode, extents: Pair, kernel: Pair, strides: Pair, dilations: Pair) -> Pads:
    """The pads of an ONNX node, `auto_pad` resolved; negative pads are refused."""
    mode = n.text("auto_pad", "NOTSET")
    if mode != "NOTSET" and any(n.integers("pads", ())):
        n.fail(f"auto_pad={mode} and pads={list(n.integers('pads', ()))} are both given", "one of them")
    if mode == "VALID":
        return (0, 0, 0, 0)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return same_pads(extents, kernel, strides, dilations, upper=mode == "SAME_UPPER")
    if mode != "NOTSET":
        n.fail(f"auto_pad={mode} is not known", "NOTSET, VALID, SAME_UPPER, SAME_LOWER")
    pads = n.integers("pads", (0, 0, 0, 0))
    if len(pads) != 4 or min(pads) < 0 or max(pads) > MAX_PAD:
        n.fail(f"pads={list(pads)} are not allowed", f"four numbers from 0 to {MAX_PAD}")
    return (pads[0], pads[1], pads[2], pads[3])


def same_pads(extents: Pair, kernel: Pair, strides: Pair, dilations: Pair, *, upper: bool) -> Pads:
    """Pads that give ceil(extent / stride) windows; an odd one goes after (`upper`) or before."""
    sides: list[Pair] = []
    for extent, taps, stride, dilation in zip(extents, kernel, strides, dilations, strict=True):
        total = max((-(-extent // stride) - 1) * stride + (taps - 1) * dilation + 1 - extent, 0)
        small, large = total // 2, total - total // 2
        sides.append((small, large) if upper else (large, small))
    (top, bottom), (left, right) = sides
    return (top, left, bottom, right)


def onnx_window(n: OnnxNode, kernel: Sequence[int]) -> tuple[Pair, Pair, Pair]:
    """Kernel, strides and dilations of a 2-D ONNX node."""
    if len(kernel) != 2:
        n.fail(f"the kernel has {len(kernel)} dimensions", "2")
    strides, dilations = n.integers("strides", (1, 1)), n.integers("dilations", (1, 1))
    for name, values in (("kernel_shape", kernel), ("strides", strides), ("dilations", dilations)):
        if len(values) != 2 or min(values) < 1:
            n.fail(f"{name}={list(values)} is not allowed", "two numbers of at least 1")
    return (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1])


def layer_pads(call: LayerCall, extents: Pair, kernel: Pair, strides: Pair, dilations: Pair) -> Pads:
    """The pads of a DSL layer: `padding` as in Keras."""
    if call.choice("padding", "valid", ("valid", "same")) == "valid":
        return (0, 0, 0, 0)
    return same_pads(extents, kernel, strides, dilations, upper=True)


def layer_pooling(call: LayerCall) -> tuple[Node, Pair, Pair, Pads]:
    """Operand, kernel, strides and pads of a DSL pooling layer, whose arguments end with these."""
    x = call.input(4)
    kernel = call.pair("pool_size", 2)
    strides = call.pair("strides", kernel)
    pads = layer_pads(call, (x.shape[1], x.shape[2]), kernel, strides, (1, 1))
    call.done()
    return x, kernel, strides, pads


def write_spatial(
    w: OnnxWriter, node: Node, layout: str, x: str, write: Callable[[str, str], object]
) -> None:
    """Write a node that ONNX has in NCHW only: `write(input, output)`, transposed where needed."""
    if layout == "NCHW":
        write(x, w.tensor(node))
        return
    inner = f"{w.tensor(node)}_nchw"
    write(w.transposed(x, TO_NCHW, f"{w.tensor(node)}_input_nchw"), inner)
    w.transposed(inner, TO_NHWC, w.tensor(node))


def write_clamped(
    w: OnnxWriter, output: str, bounds: Pair, dtype: np.dtype[Any], write: Callable[[str], object]
) -> None:
    """Write `write(output)`, followed by an integer Clip where the bounds are narrower than the type."""
    info = np.iinfo(dtype)
    if bounds == (info.min, info.max):
        write(output)
        return
    write(f"{output}_unclamped")
    write_clip(w, f"{output}_unclamped", output, bounds, dtype)


def rows_read(
    rows: tuple[int, int], extent: int, taps: int, stride: int, dilation: int, before: int
) -> tuple[tuple[int, int], int, int]:
    """The input that windows read along one dimension, and the padding before and after it.

    Args:
        rows: the outputs, half-open.
        extent: of the input.
        taps: of a window.
        stride: from window to window.
        dilation: from tap to tap.
        before: the padding before the input.
    """
    first = rows[0] * stride - before
    last = (rows[1] - 1) * stride - before + (taps - 1) * dilation + 1
    return (max(first, 0), min(last, extent)), max(-first, 0), max(last - extent, 0)


def window_part(
    box: Box, shape: Shape, kernel: Pair, strides: Pair, dilations: Pair, pads: Pads
) -> tuple[Box, Pads] | None:
    """The box of an image in NHWC that windows of a box of the result read, and its padding.

    None where all that some window reads is padding.
    """
    found: list[tuple[tuple[int, int], int, int]] = []
    for axis in (0, 1):
        read = rows_read(
            box[axis + 1], shape[axis + 1], kernel[axis], strides[axis], dilations[axis], pads[axis]
        )
        if read[0][0] >= read[0][1]:
            return None
        found.append(read)
    (rows, top, bottom), (columns, left, right) = found
    return (box[0], rows, columns, (0, shape[3])), (top, left, bottom, right)
