"""The matrix array: int8 products summed in int32 accumulators."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from isa.arithmetic import exact_depth, matmul
from isa.instructions.footprints import (
    accumulators,
    channel_groups,
    eight_bit,
    pixels,
    run,
    strided,
    visible_taps,
    window_box,
)
from isa.instructions.sums import store_sums
from isa.memory_map import Space
from isa.spec import (
    Access,
    Dims,
    ElementType,
    Engine,
    Fault,
    Instruction,
    MachineState,
    Trap,
    instruction,
    kept,
    operand,
)
from isa.target import Target

DENSE_GROWTH: Final = 4
"""How many times as large as the input a padded image may be: beyond, most products are of padding."""
DENSE_SLACK: Final = 1 << 20
"""Elements that a padded image may have besides: as many are soon multiplied, padding or not."""
SHALLOW: Final = 64
"""Products of a sum up to which the windows of a tile are laid out as a whole: numpy starts once."""
DENSE_LIMIT: Final = 1 << 26
"""Elements up to which the windows of a tile are laid out side by side."""
Count = TypeVar("Count", int, NDArray[np.int64])
"""A number, or one for each of many candidates: the planner asks for the cost of all its tiles at once."""


def depth_passes(kh: Count, kw: int, cin: Count, rows: int) -> tuple[Count, Count]:
    """Passes of an array with so many rows over the depth of a sum of kh x kw x cin products.

    First with the columns of the kernel side by side on the array's rows, as `pack` says; then one after
    another.
    """
    return kh * -(-kw * cin // rows), kh * kw * -(-cin // rows)


def pass_cycles(t: Target, m: Count) -> Count:
    """Cycles of a pass of m rows under which the weights of the next one arrive, a row a cycle."""
    return max(m, t.mx.rows) if isinstance(m, int) else np.maximum(m, t.mx.rows)


def array_overhead(t: Target) -> int:
    """Cycles of an instruction beside its passes: issue, fill, drain."""
    return t.ctl.issue + t.mx.rows + t.mx.rows + t.mx.cols


def array_cycles(t: Target, passes: int, m: int) -> int:
    """Issue, fill, the passes of m rows each, drain."""
    each = pass_cycles(t, m) if t.mx.wload_double else m + t.mx.rows
    return array_overhead(t) + passes * each


@cache
def magnitude(element: ElementType, zero_point: int) -> int:
    """The greatest |value - zero_point|."""
    low, high = element.bounds
    return max(abs(low - zero_point), abs(high - zero_point))


@instruction("conv", opcode=0x62, engine=Engine.MX)
class Conv(Instruction):
    """Convolve one tile directly into the accumulators.

    For every output pixel (y, x) and channel n:
    `ACC[acc + (n/C)*ags + y*ow + x][n%C] (+)= sum (X - zx) * (W - zw)` over taps (ky, kx) and
    input channels, with the input row y*sh + ky*dh - pt and column x*sw + kx*dw - pl. Taps outside
    ih x iw contribute nothing. Weights lie as `[group][kh][kw][cin][C]`. The sum wraps to int32.
    """

    inp: int = operand(23, address=True, doc="first input byte in SPM: pixel (0, 0) of the tile")
    wgt: int = operand(20, scale=8, address=True, doc="first weight byte in SPM, a multiple of 8")
    acc: int = operand(14, address=True, doc="first accumulator row")
    oh: int = operand(10, low=1, doc="output rows")
    ow: int = operand(10, low=1, doc="output columns")
    cin: int = operand(12, low=1, doc="input channels")
    cout: int = operand(12, low=1, doc="output channels")
    kh: int = operand(4, low=1, doc="kernel rows")
    kw: int = operand(4, low=1, doc="kernel columns")
    sh: int = operand(4, low=1, doc="stride over rows")
    sw: int = operand(4, low=1, doc="stride over columns")
    dh: int = operand(4, low=1, doc="dilation over rows")
    dw: int = operand(4, low=1, doc="dilation over columns")
    ips: int = operand(13, doc="input bytes from pixel to pixel")
    irs: int = operand(18, doc="input bytes from row to row")
    ih: int = operand(11, low=1, doc="valid input rows; outside is padding")
    iw: int = operand(11, low=1, doc="valid input columns")
    pt: int = operand(5, doc="padding rows above")
    pl: int = operand(5, doc="padding columns to the left")
    zx: int = operand(8, type_field="xt", doc="input zero point")
    zw: int = operand(8, type_field="wt", doc="weight zero point")
    xt: ElementType = operand(2, enum=ElementType, doc="input type")
    wt: ElementType = operand(2, enum=ElementType, doc="weight type")
    accum: int = operand(1, doc="1: add to the accumulators, 0: replace them")
    pack: int = operand(1, doc="1: kw*cin contiguous bytes fill the array rows; changes timing only")
    ags: int = operand(12, doc="accumulator rows from channel group to channel group")

    shorthands = ("{oh}x{ow}", "{cin}->{cout}", "k={kh}x{kw}", "s={sh}x{sw}", "d={dh}x{dw}")

    def unused(self) -> frozenset[str]:
        idle: set[str] = set()
        if self.kh == 1:
            idle.add("dh")
        if self.kw == 1:
            idle.add("dw")
        return frozenset(idle)

    def check(self, t: Target) -> Iterator[Fault]:
        yield from eight_bit("xt", self.xt)
        yield from eight_bit("wt", self.wt)
        yield from window_box("ih", self.ih, self.oh, self.sh, self.kh, self.dh, self.pt)
        yield from window_box("iw", self.iw, self.ow, self.sw, self.kw, self.dw, self.pl)
        if self.pack and (self.ips != self.cin or self.dw != 1):
            yield Fault(
                Trap.LIMIT,
                "pack",
                "pack=1 needs dense pixels without dilation; allowed: ips = cin and dw = 1",
            )

    def _rows(self) -> Dims:
        return ((self.oh * self.ow, 1),)

    def _targets(self, t: Target, *, write: bool) -> list[tuple[slice, Access]]:
        return list(accumulators("acc", self.acc, self.ags, self._rows(), self.cout, t, write=write))

    def _input(self) -> Access:
        return pixels("inp", self.inp, self.ih, self.irs, self.iw, self.ips, self.cin)

    def _weights(self, t: Target) -> Access:
        groups = math.ceil(self.cout / t.mx.cols)
        return run("wgt", Space.SPM, self.wgt, groups * self.kh * self.kw * self.cin * t.mx.cols)

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self._input()
        yield self._weights(t)
        if self.accum:
            yield from (a for _, a in self._targets(t, write=False))
        yield from (a for _, a in self._targets(t, write=True))

    def may_alias(self, read: Access, write: Access) -> bool:
        return read.operand == write.operand == "acc"

    @kept
    def _places(self, t: Target) -> tuple[Access, Access, list[tuple[slice, Access]]]:
        """Input, weights and accumulators."""
        return self._input(), self._weights(t), self._targets(t, write=True)

    def execute(self, m: MachineState) -> None:
        inputs, weights, targets = self._places(m.target)
        kernel = self._kernel(m.read(weights, self.wt.dtype), m.target.mx.cols)
        box = m.read(inputs, self.xt.dtype)
        total = self._sparse_sum(box, kernel) if self._is_mostly_padding() else self._dense_sum(box, kernel)
        store_sums(m, targets, total, self.kh * self.kw * self.cin, accumulate=bool(self.accum))

    def _extent(self) -> tuple[int, int]:
        """Rows and columns from the first tap of the first window to the last tap of the last."""
        return (
            (self.oh - 1) * self.sh + (self.kh - 1) * self.dh + 1,
            (self.ow - 1) * self.sw + (self.kw - 1) * self.dw + 1,
        )

    def _is_mostly_padding(self) -> bool:
        """Whether the padded image, or its windows side by side, would be far larger than the input."""
        height, width = self._extent()
        return (
            height * width * self.cin > DENSE_GROWTH * self.ih * self.iw * self.cin + DENSE_SLACK
            or height * self.ow * self.kw * self.cin > DENSE_LIMIT
        )

    def _dense_sum(self, box: NDArray[Any], kernel: NDArray[np.float32]) -> NDArray[Any]:
        """The sum over taps and channels, (oh*ow, cout), on the padded image.

        Raw input codes are multiplied (8-bit operands keep more products exact in float32); the zero
        point's share, zx * sum(W - zw), is subtracted per channel.
        """
        depth = exact_depth(max(map(abs, self.xt.bounds)), magnitude(self.wt, self.zw))
        total = self._product(self._padded(box), kernel, depth)
        if self.zx:
            taps = kernel.reshape(-1, self.cout)
            ones = np.ones((1, len(taps)), np.float32)
            share = matmul(ones, taps, exact_depth(1, magnitude(self.wt, self.zw)))[0].astype(np.int64)
            total -= (share * self.zx).astype(total.dtype)  # modulo 2^32 where total is int32: exact
        return total

    def _sparse_sum(self, box: NDArray[Any], kernel: NDArray[np.float32]) -> NDArray[Any]:
        """The same, tap by tap, on the outputs that see the input through each."""
        depth = exact_depth(magnitude(self.xt, self.zx), magnitude(self.wt, self.zw))
        total = np.zeros((self.oh, self.ow, self.cout), np.int64)
        for (ky, kx), outs, ins in visible_taps(
            (self.kh, self.kw),
            (self.oh, self.ow),
            (self.sh, self.sw),
            (self.dh, self.dw),
            (self.pt, self.pl),
            (self.ih, self.iw),
        ):
            taps = box[ins].astype(np.float32) - np.float32(self.zx)
            if taps.size:
                product = matmul(taps.reshape(-1, self.cin), kernel[ky, kx], depth)
                total[outs] += product.reshape(*taps.shape[:2], self.cout)
        return total.reshape(-1, self.cout)

    def _kernel(self, raw: NDArray[Any], cols: int) -> NDArray[np.float32]:
        """W - zw as float32 (kh, kw, cin, cout)."""
        grouped = raw.reshape(-1, self.kh, self.kw, self.cin, cols).transpose(1, 2, 3, 0, 4)
        kernel = grouped.astype(np.float32).reshape(self.kh, self.kw, self.cin, -1)[..., : self.cout]
        return kernel - np.float32(self.zw) if self.zw else kernel

    def _padded(self, box: NDArray[Any]) -> NDArray[np.float32]:
        """The input as float32, extended by the zero point to every position that a tap visits."""
        height, width = self._extent()
        if box.shape[:2] == (height, width):
            return box.astype(np.float32, order="C")
        image = np.full((height, width, self.cin), self.zx, np.float32)
        image[self.pt : self.pt + self.ih, self.pl : self.pl + self.iw] = box
        return image

    def _product(
        self,
        image: NDArray[np.float32],
        kernel: NDArray[np.float32],
        depth: int,
    ) -> NDArray[Any]:
        """The sum over taps and channels, (oh*ow, cout): one product per kernel row."""
        row, pixel, byte = image.strides
        depth_of_all = self.kh * self.kw * self.cin
        if depth_of_all <= SHALLOW and depth_of_all <= depth:  # few products: all rows of the kernel at once
            shape = (self.oh, self.ow, self.kh, self.kw, self.cin)
            steps = (row * self.sh, pixel * self.sw, row * self.dh, pixel * self.dw, byte)
            taps = strided(image, shape, steps).reshape(self.oh * self.ow, depth_of_all)
            return (taps @ kernel.reshape(depth_of_all, self.cout)).astype(np.int32)
        shape = (image.shape[0], self.ow, self.kw, self.cin)
        strides = (row, pixel * self.sw, pixel * self.dw, byte)
        columns = np.ascontiguousarray(strided(image, shape, strides)).reshape(image.shape[0], self.ow, -1)
        flat = kernel.reshape(self.kh, self.kw * self.cin, self.cout)
        products: list[NDArray[Any]] = []
        exact_in_float = self.kh * self.kw * self.cin <= depth
        for ky in range(self.kh):
            first = ky * self.dh
            taps = columns[first : first + (self.oh - 1) * self.sh + 1 : self.sh]
            taps = taps.reshape(self.oh * self.ow, -1)
            products.append(taps @ flat[ky] if exact_in_float else matmul(taps, flat[ky], depth))
        if exact_in_float:
            total = products[0]
            for product in products[1:]:
                total += product
            return total.astype(np.int32)
        return np.asarray(np.sum(products, axis=0, dtype=np.int64))

    def macs(self) -> int:
        return self.oh * self.ow * self.cin * self.cout * self.kh * self.kw

    def cycles(self, t: Target) -> int:
        packed, apart = depth_passes(self.kh, self.kw, self.cin, t.mx.rows)
        passes = math.ceil(self.cout / t.mx.cols) * (packed if self.pack else apart)
        return array_cycles(t, passes, self.oh * self.ow)


@instruction("gemm", opcode=0x63, engine=Engine.MX)
class ArrayGemm(Instruction):
    """Multiply an m x k by a k x n matrix into the accumulators.

    `ACC[acc + (n/C)*ags + i][n%C] (+)= sum_k (A(i,k) - zx) * (B(k,n) - zw)`, wrapped to int32.
    A(i,k) is byte i*ap + k of a, or k*ap + i with ta=1. B(k,n) is byte (n/C)*bg + k*bp + n%C of b,
    or n*bp + k with tb=1.
    """

    a: int = operand(23, address=True, doc="first byte of A in SPM")
    b: int = operand(23, address=True, doc="first byte of B in SPM")
    acc: int = operand(14, address=True, doc="first accumulator row")
    m: int = operand(14, low=1, doc="rows of A")
    n: int = operand(13, low=1, doc="columns of B")
    k: int = operand(14, low=1, doc="columns of A and rows of B")
    ap: int = operand(18, doc="bytes from row to row of A as stored")
    bp: int = operand(18, doc="bytes from row to row of B as stored")
    bg: int = operand(23, doc="bytes from column group to column group of B")
    ta: int = operand(1, doc="1: A is stored transposed")
    tb: int = operand(1, doc="1: B is stored transposed")
    zx: int = operand(8, type_field="xt", doc="zero point of A")
    zw: int = operand(8, type_field="wt", doc="zero point of B")
    xt: ElementType = operand(2, enum=ElementType, doc="type of A")
    wt: ElementType = operand(2, enum=ElementType, doc="type of B")
    accum: int = operand(1, doc="1: add to the accumulators, 0: replace them")
    ags: int = operand(14, doc="accumulator rows from column group to column group")

    shorthands = ("{m}x{k}x{n}",)

    def unused(self) -> frozenset[str]:
        return frozenset({"bg"}) if self.tb else frozenset()

    def check(self, t: Target) -> Iterator[Fault]:
        yield from eight_bit("xt", self.xt)
        yield from eight_bit("wt", self.wt)

    def _rows(self) -> Dims:
        return ((self.m, 1),)

    def _targets(self, t: Target, *, write: bool) -> list[tuple[slice, Access]]:
        return list(accumulators("acc", self.acc, self.ags, self._rows(), self.n, t, write=write))

    def _left(self) -> Access:
        outer, inner = (self.k, self.m) if self.ta else (self.m, self.k)
        return Access("a", Space.SPM, self.a, ((outer, self.ap), (inner, 1)))

    def _right(self, t: Target) -> list[tuple[slice, Access]]:
        """The columns of B: (columns, footprint (groups, k, lanes)), or (n, k) with tb."""
        if self.tb:
            return [(slice(0, self.n), Access("b", Space.SPM, self.b, ((self.n, self.bp), (self.k, 1))))]
        found: list[tuple[slice, Access]] = []
        for first, groups, lanes in channel_groups(self.n, t.mx.cols):
            base = self.b + first // t.mx.cols * self.bg
            dims = ((groups, self.bg), (self.k, self.bp), (lanes, 1))
            found.append((slice(first, first + groups * lanes), Access("b", Space.SPM, base, dims)))
        return found

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self._left()
        yield from (a for _, a in self._right(t))
        if self.accum:
            yield from (a for _, a in self._targets(t, write=False))
        yield from (a for _, a in self._targets(t, write=True))

    def may_alias(self, read: Access, write: Access) -> bool:
        return read.operand == write.operand == "acc"

    @kept
    def _places(self, t: Target) -> tuple[Access, list[tuple[slice, Access]], list[tuple[slice, Access]]]:
        """A, B and accumulators."""
        return self._left(), self._right(t), self._targets(t, write=True)

    def execute(self, m: MachineState) -> None:
        left_at, right_at, targets = self._places(m.target)
        stored = m.read(left_at, self.xt.dtype)
        left = (stored.T if self.ta else stored).astype(np.float32)
        right = np.empty((self.k, self.n), np.float32)
        for columns, access in right_at:
            block = m.read(access, self.wt.dtype)
            right[:, columns] = block.T if self.tb else block.transpose(1, 0, 2).reshape(self.k, -1)
        for matrix, zero_point in ((left, self.zx), (right, self.zw)):
            if zero_point:
                matrix -= np.float32(zero_point)
        depth = exact_depth(magnitude(self.xt, self.zx), magnitude(self.wt, self.zw))
        store_sums(m, targets, matmul(left, right, depth), self.k, accumulate=bool(self.accum))

    def macs(self) -> int:
        return self.m * self.n * self.k

    def cycles(self, t: Target) -> int:
        passes = math.ceil(self.k / t.mx.rows) * math.ceil(self.n / t.mx.cols)
        transposer = passes * t.mx.rows if self.ta or self.tb else 0
        return array_cycles(t, passes, self.m) + transposer
