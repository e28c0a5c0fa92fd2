"""The vector engine: requantization, pooling, copies, softmax."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa import arithmetic
from isa.instructions.dma import BYTE, WORD
from isa.instructions.footprints import (
    accumulators,
    eight_bit,
    granules,
    ordered,
    pixels,
    register,
    table,
    valid_windows,
    visible_taps,
    window_box,
)
from isa.instructions.records import (
    FLOAT,
    QuantRecord,
    require_exponentials,
    require_finite,
    require_scale,
)
from isa.instructions.sums import gather_sums
from isa.instructions.vector_words import observe
from isa.memory_map import Q_GRANULES, REQUANT_RECORD, Space
from isa.spec import (
    Access,
    Dims,
    ElementType,
    Engine,
    Fault,
    Instruction,
    MachineState,
    Trap,
    TrapError,
    instruction,
    kept,
    operand,
)
from isa.target import Target

Slices = tuple[slice, slice]
SOFTMAX_TABLE_GRANULES: Final = 128


class Requant(IntEnum):
    """How accumulators become output values."""

    F32 = 0
    F32Z = 1
    FIX = 2
    SHR = 3
    FLOAT = 4
    RAW = 7


class Pool(IntEnum):
    """What a pooling window becomes."""

    MAX = 0
    AVG = 1


class Move(IntEnum):
    """The function of a copy."""

    COPY = 0


def look_up(m: MachineState, access: Access, codes: NDArray[Any]) -> NDArray[np.uint8]:
    """Table entries of raw bytes."""
    entries = m.read(access, BYTE)
    return entries[codes.astype(np.uint8)]


def write_codes(m: MachineState, output: Access, codes: NDArray[Any], lut: int) -> None:
    """Write 8-bit results, through the table of that number if one is named."""
    m.write(output, look_up(m, table("lut", lut), codes) if lut else codes.view(BYTE), BYTE)


@instruction("vreq", opcode=0x82, engine=Engine.VX)
class Requantize(Instruction):
    """Requantize accumulators and write 8-bit values to the scratchpad.

    Modes f32 and f32z multiply by the float32 m of the channel's record; shr by m * 2^-s, rounded to
    float32 and finite, s clamped to -31..126; float (extension T) takes the accumulators for float32, has
    no record, and multiplies by 2^-s, s clamped to -126..126; raw writes int32 without clamping. All but
    raw clamp to lo..hi and may end in a table of raw bytes. s is a scalar register, or the field shift.
    Register obs (extension T) becomes the maximum of itself and of what is requantized, bias added: of |A|,
    saturated to 2^31 - 1, where the output is s8, of A where it is u8, of the bits of |A| in mode float.
    Pixel (y, x) is accumulator row acc + (n/C)*ags + y*aws + x.
    """

    acc: int = operand(14, address=True, doc="first accumulator row")
    out: int = operand(23, address=True, doc="first output byte in SPM")
    prm: int = operand(16, address=True, doc="first granule of the records {i32 bias, f32 m}")
    lut: int = operand(8, doc="0: none, n: the table at PRM byte 256*n")
    h: int = operand(10, low=1, doc="rows")
    w: int = operand(14, low=1, doc="columns")
    c: int = operand(12, low=1, doc="channels")
    ags: int = operand(14, doc="accumulator rows from channel group to channel group")
    aws: int = operand(12, doc="accumulator rows from image row to image row")
    ops: int = operand(16, doc="output bytes from pixel to pixel")
    ors: int = operand(20, doc="output bytes from row to row")
    lo: int = operand(8, type_field="ot", doc="least output value")
    hi: int = operand(8, type_field="ot", doc="greatest output value")
    zp: int = operand(8, type_field="ot", doc="output zero point")
    mode: Requant = operand(4, enum=Requant, doc="how accumulators become output values")
    perch: int = operand(1, doc="1: a record per channel, 0: one record for all")
    ot: ElementType = operand(2, enum=ElementType, doc="output type")
    sreg: int = operand(6, doc="scalar register that gives the shift; 0: the field shift")
    obs: int = operand(6, doc="scalar register that observes the maximum; 0: none")
    shift: int = operand(7, signed=True, doc="right shift of modes shr and float; negative shifts left")

    shorthands = ("{h}x{w}x{c}",)

    def unused(self) -> frozenset[str]:
        match self.mode:
            case Requant.RAW:
                return frozenset({"lo", "hi", "zp", "lut", "sreg", "shift", "obs"})
            case Requant.SHR:
                return frozenset({"zp"} | ({"shift"} if self.sreg else set()))
            case Requant.FLOAT:
                return frozenset({"zp", "prm", "perch"} | ({"shift"} if self.sreg else set()))
            case _:
                return frozenset({"sreg", "shift", "obs"})

    def extensions(self) -> Sequence[tuple[str, str]]:
        floats = (("T", "mode"),) if self.mode is Requant.FLOAT else ()
        return (*floats, ("T", "obs")) if self.obs else floats

    def check(self, t: Target) -> Iterator[Fault]:
        del t
        if self.mode is Requant.FIX:
            yield Fault(Trap.EXT_MISSING, "mode", "mode=fix needs extension F")
        if self.mode is Requant.RAW:
            if self.ot is not ElementType.S32:
                yield Fault(Trap.BAD_ENUM, "ot", "mode=raw writes int32; allowed: ot=s32")
            return
        yield from eight_bit("ot", self.ot)
        if self.ot in (ElementType.S8, ElementType.U8):
            yield from ordered(self.lo, self.hi)

    def _rows(self) -> Dims:
        return ((self.h, self.aws), (self.w, 1))

    def _sources(self, t: Target) -> list[tuple[slice, Access]]:
        return list(accumulators("acc", self.acc, self.ags, self._rows(), self.c, t, write=False))

    def _records(self) -> Access:
        return granules("prm", self.prm, self.c if self.perch else 1)

    def _output(self) -> Access:
        size = self.ot.dtype.itemsize
        return pixels(
            "out", self.out, self.h, self.ors, self.w, self.ops, self.c, write=True, element_bytes=size
        )

    def accesses(self, t: Target) -> Iterator[Access]:
        yield from (a for _, a in self._sources(t))
        if self.mode is not Requant.FLOAT:
            yield self._records()
        if self.lut:
            yield table("lut", self.lut)
        if self.sreg:
            yield register("sreg", self.sreg)
        if self.obs:
            yield register("obs", self.obs)
        yield self._output()
        if self.obs:
            yield register("obs", self.obs, write=True)

    def may_alias(self, read: Access, write: Access) -> bool:
        return read.operand == write.operand == "obs"

    @kept
    def _places(self, t: Target) -> tuple[list[tuple[slice, Access]], Access, Access]:
        """Accumulators, records and output."""
        return self._sources(t), self._records(), self._output()

    def execute(self, m: MachineState) -> None:
        sources, records_at, output = self._places(m.target)
        if self.mode is Requant.FLOAT:
            self._quantize(m, self._gather(m, sources).view(FLOAT), output)
            return
        records = m.read(records_at, REQUANT_RECORD)
        if self.mode is not Requant.RAW:
            require_scale("prm", records["m"])
        acc = self._gather(m, sources)
        if self.mode is Requant.RAW:
            m.write(output, arithmetic.add_wrapping(acc, records["bias"]), WORD)
            return
        bias: NDArray[np.int32] = records["bias"]
        sums = arithmetic.add_wrapping(acc, bias) if bias.any() else acc
        shift = self._shift(m) if self.mode is Requant.SHR else 0
        if shift < 0:
            require_finite("prm", arithmetic.shifted_scale(records["m"], shift))
        values = self._requantize(sums, records["m"], shift)
        write_codes(m, output, values.astype(self.ot.dtype), self.lut)
        if self.obs:
            observe(m, self.obs, np.maximum(sums.max(), 0) if self.ot is ElementType.U8 else sums)

    def _shift(self, m: MachineState) -> int:
        return int(m.read(register("sreg", self.sreg), WORD)[0]) if self.sreg else self.shift

    def _quantize(self, m: MachineState, values: NDArray[np.float32], output: Access) -> None:
        """Mode float."""
        if not arithmetic.is_finite(values):
            raise TrapError(Trap.FP_INVALID, "acc", "a value to be quantized is NaN or infinite")
        codes = arithmetic.quantize_by_exponent(values, self._shift(m), self.lo, self.hi)
        write_codes(m, output, codes.astype(self.ot.dtype), self.lut)
        if self.obs:
            observe(m, self.obs, values)

    def _gather(self, m: MachineState, sources: list[tuple[slice, Access]]) -> NDArray[np.int32]:
        """The accumulators as (h, w, c)."""
        if len(sources) == 1 and sources[0][1].dims[0][0] == 1:
            return m.read(sources[0][1], WORD)[0]
        return gather_sums(m, sources, (self.h, self.w), self.c)

    def _requantize(
        self, sums: NDArray[np.int32], scale: NDArray[np.float32], shift: int
    ) -> NDArray[np.int32]:
        """Codes of sums that have their bias."""
        match self.mode:
            case Requant.F32:
                return arithmetic.requantize(sums, 0, scale, self.zp, self.lo, self.hi)
            case Requant.F32Z:
                return arithmetic.requantize_zero_point_first(sums, 0, scale, self.zp, self.lo, self.hi)
            case _:
                return arithmetic.requantize_shifted(sums, 0, scale, shift, self.lo, self.hi)

    def cycles(self, t: Target) -> int:
        lanes = math.ceil(self.c / t.mx.cols) * t.mx.cols
        return t.ctl.issue + t.vx.startup + math.ceil(self.h * self.w * lanes / t.vx.lanes)


@instruction("vpool", opcode=0x85, engine=Engine.VX)
class Pooling(Instruction):
    """Take the maximum or the average of every window of a tile.

    Taps outside ih x iw are padding: they never win a maximum, and count in an average only with
    cip=1. The average is a float32 sum in row-major order (QLinearAveragePool): record Q gives
    p0 = input scale, p1 = output scale, za, zo.
    """

    inp: int = operand(23, address=True, doc="first input byte in SPM")
    out: int = operand(23, address=True, doc="first output byte in SPM")
    prm: int = operand(16, address=True, doc="granule of record Q")
    fn: Pool = operand(3, enum=Pool, doc="maximum or average")
    oh: int = operand(9, low=1, doc="output rows")
    ow: int = operand(9, low=1, doc="output columns")
    c: int = operand(12, low=1, doc="channels")
    kh: int = operand(6, low=1, doc="window rows")
    kw: int = operand(6, low=1, doc="window columns")
    sh: int = operand(4, low=1, doc="stride over rows")
    sw: int = operand(4, low=1, doc="stride over columns")
    ips: int = operand(13, doc="input bytes from pixel to pixel")
    irs: int = operand(18, doc="input bytes from row to row")
    ih: int = operand(10, low=1, doc="valid input rows; outside is padding")
    iw: int = operand(10, low=1, doc="valid input columns")
    pt: int = operand(5, doc="padding rows above")
    pl: int = operand(5, doc="padding columns to the left")
    ops: int = operand(13, doc="output bytes from pixel to pixel")
    ors: int = operand(18, doc="output bytes from row to row")
    cip: int = operand(1, doc="1: padding counts in the average")
    xt: ElementType = operand(1, enum=ElementType, doc="input type")
    ot: ElementType = operand(1, enum=ElementType, doc="output type")

    shorthands = ("{fn}", "{oh}x{ow}x{c}", "k={kh}x{kw}", "s={sh}x{sw}")

    def unused(self) -> frozenset[str]:
        return frozenset({"prm", "cip"}) if self.fn is Pool.MAX else frozenset()

    def check(self, t: Target) -> Iterator[Fault]:
        del t
        yield from window_box("ih", self.ih, self.oh, self.sh, self.kh, 1, self.pt)
        yield from window_box("iw", self.iw, self.ow, self.sw, self.kw, 1, self.pl)
        if self.fn is Pool.MAX and self.xt is not self.ot:
            yield Fault(Trap.BAD_ENUM, "ot", "fn=max copies values; allowed: ot = xt")
        yield from valid_windows("ih", self.ih, self.oh, self.sh, self.kh, self.pt)
        yield from valid_windows("iw", self.iw, self.ow, self.sw, self.kw, self.pl)

    def _input(self) -> Access:
        return pixels("inp", self.inp, self.ih, self.irs, self.iw, self.ips, self.c)

    def _output(self) -> Access:
        return pixels("out", self.out, self.oh, self.ors, self.ow, self.ops, self.c, write=True)

    def accesses(self, t: Target) -> Iterator[Access]:
        del t
        yield self._input()
        if self.fn is Pool.AVG:
            yield granules("prm", self.prm, Q_GRANULES)
        yield self._output()

    @kept
    def _places(self, t: Target) -> tuple[Access, Access]:
        """Input and output."""
        del t
        return self._input(), self._output()

    def execute(self, m: MachineState) -> None:
        inputs, output = self._places(m.target)
        q = self._record(m)
        box = m.read(inputs, self.xt.dtype)
        if self.fn is Pool.MAX:
            best = np.full((self.oh, self.ow, self.c), self.xt.bounds[0], box.dtype)
            for outs, ins in self._taps():
                np.maximum(best[outs], box[ins], out=best[outs])
            m.write(output, best, self.ot.dtype)
            return
        real = arithmetic.dequantize(box, q.p[0], q.za)
        taps = (self._laid_out(real, outs, ins) for outs, ins in self._taps())
        averaged = arithmetic.average(taps, self._counts(), q.p[1], q.zo, q.lo, q.hi)
        m.write(output, averaged, self.ot.dtype)

    def _record(self, m: MachineState) -> QuantRecord:
        """Record Q of an average; a maximum has none."""
        if self.fn is Pool.MAX:
            return QuantRecord()
        return QuantRecord.read(m, "prm", self.prm, scales=(0, 1), divisors=(1,), output=self.ot)

    def _taps(self) -> Iterator[tuple[Slices, Slices]]:
        """For every tap, row-major: the outputs that see the input through it, and what they see."""
        geometry = (
            (self.kh, self.kw),
            (self.oh, self.ow),
            (self.sh, self.sw),
            (1, 1),
            (self.pt, self.pl),
            (self.ih, self.iw),
        )
        return ((outs, ins) for _, outs, ins in visible_taps(*geometry))

    def _laid_out(self, real: NDArray[np.float32], outs: Slices, ins: Slices) -> NDArray[np.float32]:
        """One tap of every output, 0 where it lies in the padding."""
        tap = np.zeros((self.oh, self.ow, self.c), np.float32)
        tap[outs] = real[ins]
        return tap

    def _counts(self) -> NDArray[np.float32]:
        """How many taps count in each output, (oh, ow, c)."""
        counts = np.full((self.oh, self.ow), self.kh * self.kw if self.cip else 0, np.float32)
        if not self.cip:
            for outs, _ in self._taps():
                counts[outs] += 1
        return np.broadcast_to(counts[..., None], (self.oh, self.ow, self.c))

    def cycles(self, t: Target) -> int:
        beats = math.ceil(self.c / t.vx.lanes) * self.oh * self.ow * self.kh * self.kw
        return t.ctl.issue + t.vx.startup + beats


@instruction("vmov", opcode=0x87, engine=Engine.VX)
class VectorMove(Instruction):
    """Copy a four-level strided box within the scratchpad, through a table if one is named.

    Element (i3, i2, i1, i0) moves from `src + i3*ss3 + i2*ss2 + i1*ss1 + i0` to
    `dst + i3*dd3 + i2*dd2 + i1*dd1 + i0`; pitches are bytes and signed, n0 counts elements.
    """

    src: int = operand(23, address=True, doc="first byte read")
    dst: int = operand(23, address=True, doc="first byte written")
    n0: int = operand(13, low=1, doc="elements of a run")
    n1: int = operand(11, low=1, doc="runs")
    n2: int = operand(11, low=1, doc="rows of runs")
    n3: int = operand(8, low=1, doc="planes of rows")
    ss1: int = operand(18, signed=True, doc="source bytes from run to run")
    ss2: int = operand(18, signed=True, doc="source bytes from row to row")
    ss3: int = operand(18, signed=True, doc="source bytes from plane to plane")
    dd1: int = operand(18, signed=True, doc="destination bytes from run to run")
    dd2: int = operand(18, signed=True, doc="destination bytes from row to row")
    dd3: int = operand(18, signed=True, doc="destination bytes from plane to plane")
    lut: int = operand(8, doc="0: none, n: the table at PRM byte 256*n")
    fn: Move = operand(3, enum=Move, doc="the function")
    xt: ElementType = operand(2, enum=ElementType, doc="type of the elements")

    shorthands = ("{dst}<-{src}", "n={n0}")

    def unused(self) -> frozenset[str]:
        return frozenset(
            f"{side}{level}"
            for level, count in ((1, self.n1), (2, self.n2), (3, self.n3))
            if count == 1
            for side in ("ss", "dd")
        )

    def check(self, t: Target) -> Iterator[Fault]:
        del t
        if self.xt is ElementType.S16:
            yield Fault(Trap.EXT_MISSING, "xt", "xt=s16 needs extension X")
        if self.xt is ElementType.S32 and self.lut:
            yield Fault(Trap.BAD_ENUM, "lut", "a table maps bytes; allowed with xt=s32: lut=0")

    def _box(self, name: str, base: int, pitches: tuple[int, int, int], *, write: bool) -> Access:
        dims = (
            (self.n3, pitches[2]),
            (self.n2, pitches[1]),
            (self.n1, pitches[0]),
            (self.n0 * self.xt.dtype.itemsize, 1),
        )
        return Access(name, Space.SPM, base, dims, write=write)

    def _source(self) -> Access:
        return self._box("src", self.src, (self.ss1, self.ss2, self.ss3), write=False)

    def _destination(self) -> Access:
        return self._box("dst", self.dst, (self.dd1, self.dd2, self.dd3), write=True)

    def accesses(self, t: Target) -> Iterator[Access]:
        del t
        yield self._source()
        if self.lut:
            yield table("lut", self.lut)
        yield self._destination()

    def may_alias(self, read: Access, write: Access) -> bool:
        return read.operand == "src" and (read.base, read.dims) == (write.base, write.dims)

    def execute(self, m: MachineState) -> None:
        values = m.read(self._source(), BYTE)
        if self.lut:
            values = look_up(m, table("lut", self.lut), values)
        m.write(self._destination(), values.copy(), BYTE)

    def cycles(self, t: Target) -> int:
        runs = self.n3 * self.n2 * self.n1
        return t.ctl.issue + t.vx.startup + runs * math.ceil(self.n0 / t.vx.lanes)


@instruction("vsfm", opcode=0x88, engine=Engine.VX)
class VectorSoftmax(Instruction):
    """Take the softmax over the channels of every pixel.

    The codes of a pixel are shifted so that their maximum reads the last of 256 float32 table
    entries; the sum is sequential in ascending channel order (QLinearSoftmax). Record Q gives
    p0 = floor(1 / output scale), zo, lo, hi.
    """

    inp: int = operand(23, address=True, doc="first input byte in SPM")
    out: int = operand(23, address=True, doc="first output byte in SPM")
    tab: int = operand(16, address=True, doc="first granule of the float32[256] table")
    prm: int = operand(16, address=True, doc="granule of record Q")
    h: int = operand(10, low=1, doc="rows")
    w: int = operand(10, low=1, doc="columns")
    c: int = operand(16, low=1, doc="channels")
    ips: int = operand(16, doc="input bytes from pixel to pixel")
    irs: int = operand(20, doc="input bytes from row to row")
    ops: int = operand(16, doc="output bytes from pixel to pixel")
    ors: int = operand(20, doc="output bytes from row to row")
    xt: ElementType = operand(1, enum=ElementType, doc="input type")
    ot: ElementType = operand(1, enum=ElementType, doc="output type")

    shorthands = ("{h}x{w}x{c}",)

    def _input(self) -> Access:
        return pixels("inp", self.inp, self.h, self.irs, self.w, self.ips, self.c)

    def _output(self) -> Access:
        return pixels("out", self.out, self.h, self.ors, self.w, self.ops, self.c, write=True)

    def accesses(self, t: Target) -> Iterator[Access]:
        del t
        yield self._input()
        yield granules("tab", self.tab, SOFTMAX_TABLE_GRANULES)
        yield granules("prm", self.prm, Q_GRANULES)
        yield self._output()

    def execute(self, m: MachineState) -> None:
        entries = m.read(granules("tab", self.tab, SOFTMAX_TABLE_GRANULES), FLOAT)
        require_exponentials("tab", entries)
        q = QuantRecord.read(m, "prm", self.prm, scales=(0,), output=self.ot)
        codes = m.read(self._input(), self.xt.dtype).astype(np.int32) - self.xt.bounds[0]
        y = arithmetic.softmax(codes, entries, q.p[0], q.zo, q.lo, q.hi)
        m.write(self._output(), y, self.ot.dtype)

    def cycles(self, t: Target) -> int:
        per_pixel = 2 * math.ceil(self.c / t.vx.lanes) + self.c
        return t.ctl.issue + t.vx.startup + self.h * self.w * per_pixel
