"""The gradient of a convolution's weights on the matrix array (extension T)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from isa.arithmetic import exact_depth
from isa.instructions.footprints import accumulators, pixels, strided, window_box
from isa.instructions.matrix import DENSE_LIMIT, array_cycles, magnitude
from isa.instructions.sums import store_sums
from isa.spec import (
    Access,
    Dims,
    ElementType,
    Engine,
    Fault,
    Instruction,
    MachineState,
    instruction,
    kept,
    operand,
)
from isa.target import Target


@instruction("wgrad", opcode=0x64, engine=Engine.MX)
class WeightGradient(Instruction):
    """Sum the products of a convolution's inputs and of its outputs' errors, for every weight.

    `ACC[acc + ((ky*kw+kx)*cin + ci) + (co/C)*kh*kw*cin][co%C] (+)= sum x(y, x, ci) * g(oy, ox, co)` over
    output pixels, with the input row oy*sh + ky - pt and column ox*sw + kx - pl; taps outside ih x iw
    contribute nothing. The errors g are s8 and stand still in the array while every tap of x streams past
    them. The rows are those in which conv reads its weights, a word for a byte. The sum wraps to int32.
    """

    extension: ClassVar[str] = "T"

    x: int = operand(23, address=True, doc="first input byte in SPM: pixel (0, 0) of the tile")
    g: int = operand(23, address=True, doc="first byte of the errors in SPM")
    acc: int = operand(14, address=True, doc="first accumulator row")
    oh: int = operand(9, low=1, doc="output rows")
    ow: int = operand(9, low=1, doc="output columns")
    cin: int = operand(12, low=1, doc="input channels")
    cout: int = operand(12, low=1, doc="output channels")
    kh: int = operand(4, low=1, doc="kernel rows")
    kw: int = operand(4, low=1, doc="kernel columns")
    sh: int = operand(3, low=1, doc="stride over rows")
    sw: int = operand(3, low=1, doc="stride over columns")
    ips: int = operand(13, doc="input bytes from pixel to pixel")
    irs: int = operand(18, doc="input bytes from row to row")
    gps: int = operand(13, doc="error bytes from pixel to pixel")
    grs: int = operand(18, doc="error bytes from row to row")
    ih: int = operand(9, low=1, doc="valid input rows; outside is padding")
    iw: int = operand(9, low=1, doc="valid input columns")
    pt: int = operand(4, doc="padding rows above")
    pl: int = operand(4, doc="padding columns to the left")
    accum: int = operand(1, doc="1: add to the accumulators, 0: replace them")
    xt: ElementType = operand(1, enum=ElementType, doc="input type")

    shorthands = ("{oh}x{ow}", "{cin}->{cout}", "k={kh}x{kw}", "s={sh}x{sw}")

    def check(self, t: Target) -> Iterator[Fault]:
        del t
        yield from window_box("ih", self.ih, self.oh, self.sh, self.kh, 1, self.pt)
        yield from window_box("iw", self.iw, self.ow, self.sw, self.kw, 1, self.pl)

    @property
    def weights(self) -> int:
        """Weights of an output channel: accumulator rows of a channel group."""
        return self.kh * self.kw * self.cin

    def _rows(self) -> Dims:
        return ((self.weights, 1),)

    def _targets(self, t: Target, *, write: bool) -> list[tuple[slice, Access]]:
        return list(accumulators("acc", self.acc, self.weights, self._rows(), self.cout, t, write=write))

    def _input(self) -> Access:
        return pixels("x", self.x, self.ih, self.irs, self.iw, self.ips, self.cin)

    def _errors(self) -> Access:
        return pixels("g", self.g, self.oh, self.grs, self.ow, self.gps, self.cout)

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self._input()
        yield self._errors()
        if self.accum:
            yield from (a for _, a in self._targets(t, write=False))
        yield from (a for _, a in self._targets(t, write=True))

    def may_alias(self, read: Access, write: Access) -> bool:
        return read.operand == write.operand == "acc"

    @kept
    def _places(self, t: Target) -> tuple[Access, Access, list[tuple[slice, Access]]]:
        """Input, errors and accumulators."""
        return self._input(), self._errors(), self._targets(t, write=True)

    def execute(self, m: MachineState) -> None:
        inputs, errors_at, targets = self._places(m.target)
        depth = exact_depth(magnitude(self.xt, 0), magnitude(ElementType.S8, 0))
        kind = np.dtype(np.float32 if self.oh * self.ow <= depth else np.float64)
        errors = m.read(errors_at, ElementType.S8.dtype).astype(kind).reshape(-1, self.cout)
        box = m.read(inputs, self.xt.dtype)
        if self.weights * self.oh * self.ow > DENSE_LIMIT:
            found = np.concatenate([taps @ errors for taps in self._taps_apart(box, kind)])
        else:
            found = self._taps(box, kind) @ errors
        total = found.astype(np.int64 if kind == np.float64 else np.int32)
        store_sums(m, targets, total, self.oh * self.ow, accumulate=bool(self.accum))

    def _taps(self, box: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
        """What every weight is multiplied with at every output: (weights, oh*ow)."""
        everywhere = (self.ih, self.iw) == (self.oh, self.ow) and self.pt == self.pl == 0
        if self.weights == 1 and self.ips == self.irs == 0 and everywhere:  # one number for all
            return np.full((1, self.oh * self.ow), box[0, 0, 0], kind)
        image = self._padded(box, kind)
        row, pixel, channel = image.strides
        shape = (self.kh, self.kw, self.cin, self.oh, self.ow)
        strides = (row, pixel, channel, row * self.sh, pixel * self.sw)
        return strided(image, shape, strides).reshape(self.weights, -1)

    def _taps_apart(self, box: NDArray[Any], kind: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """The same, one tap after another: (cin, oh*ow) each."""
        image = self._padded(box, kind)
        for ky, kx in itertools.product(range(self.kh), range(self.kw)):
            seen = image[ky : ky + (self.oh - 1) * self.sh + 1 : self.sh]
            seen = seen[:, kx : kx + (self.ow - 1) * self.sw + 1 : self.sw]
            yield seen.reshape(-1, self.cin).T

    def _padded(self, box: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
        """The input with zeros at every position outside that a tap visits."""
        height, width = (self.oh - 1) * self.sh + self.kh, (self.ow - 1) * self.sw + self.kw
        image = np.zeros((height, width, self.cin), kind)
        image[self.pt : self.pt + self.ih, self.pl : self.pl + self.iw] = box
        return image

    def macs(self) -> int:
        return self.oh * self.ow * self.weights * self.cout

    def cycles(self, t: Target) -> int:
        passes = math.ceil(self.oh * self.ow / t.mx.rows) * math.ceil(self.cout / t.mx.cols)
        transposer = passes * t.mx.rows if self.ips > 1 else 0
        return array_cycles(t, passes, self.weights) + transposer
