"""The arithmetic of training on the device, stated in int64 and float32 numpy alone: no import of the project.

A network is a list of layers; each reads the value of the one before, or those that `of` names. Everything that
the device computes in a step is here in the plainest form: whole batches, one operation after another. A value is
q * 2^e * c: integers q, a whole e that changes from step to step, a rational c that never does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
F = np.float32
LIMIT = 1 << 30
LEAK = 4
FIRST_SHIFT = 8


def f32(value: Any) -> Any:
    """Rounded to float32; of a fraction, its nearest double first (no constant here lies between)."""
    return F(float(value)) if isinstance(value, Fraction) else np.asarray(value).astype(F)


def two_to(exponent: int) -> np.float32:
    return F(2.0 ** min(max(exponent, -126), 127))


def rne(v: Array, low: int, high: int) -> Array:
    return np.clip(np.rint(v), low, high).astype(np.int64)


def wrap(v: Array) -> Array:
    return (v + 2**31) % 2**32 - 2**31


def rsh(v: Array, shift: int) -> Array:
    """v / 2^shift, half to even; a negative shift shifts left."""
    if shift <= 0:
        return v << -shift
    floor, half = v >> shift, 1 << shift - 1
    rest = v - (floor << shift)
    return floor + ((rest > half) | ((rest == half) & (floor & 1 == 1)))


@dataclass(frozen=True)
class Value:
    """q * 2^e * c."""

    q: Array
    e: int
    c: Fraction
    unsigned: bool = False


@dataclass(frozen=True)
class Layer:
    """One layer: its kind, its name, what it reads, its options."""

    kind: str
    name: str
    of: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def windows(x: Array, o: Mapping[str, Any], padding: int) -> Array:
    """(n, oh, ow, kh, kw, c): what every window sees."""
    (kh, kw), (sh, sw), (dh, dw) = o["kernel"], o.get("strides", (1, 1)), o.get("dilations", (1, 1))
    top, left, bottom, right = o.get("pads", (0, 0, 0, 0))
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=padding)
    oh, ow = (x.shape[1] - (kh - 1) * dh - 1) // sh + 1, (x.shape[2] - (kw - 1) * dw - 1) // sw + 1
    taps = [
        [
            x[:, a * dh : a * dh + (oh - 1) * sh + 1 : sh, b * dw : b * dw + (ow - 1) * sw + 1 : sw]
            for b in range(kw)
        ]
        for a in range(kh)
    ]
    return np.stack([np.stack(row, axis=3) for row in taps], axis=3)


def scattered(given: Array, o: Mapping[str, Any], shape: Sequence[int]) -> Array:
    """The way back of `windows`: (n, oh, ow, kh, kw, c) summed where each was read."""
    (kh, kw), (sh, sw), (dh, dw) = o["kernel"], o.get("strides", (1, 1)), o.get("dilations", (1, 1))
    top, left, bottom, right = o.get("pads", (0, 0, 0, 0))
    n, h, w, c = shape
    total = np.zeros((n, h + top + bottom, w + left + right, c), np.int64)
    oh, ow = given.shape[1:3]
    for a in range(kh):
        for b in range(kw):
            rows = slice(a * dh, a * dh + (oh - 1) * sh + 1, sh)
            total[:, rows, b * dw : b * dw + (ow - 1) * sw + 1 : sw] += given[:, :, :, a, b]
    return total[:, top : top + h, left : left + w]


def product(a: Array, b: Array) -> Array:
    """An integer matrix product; binary64 holds every sum here (below 2^53)."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def channel_groups(layer: Layer, w8: Array) -> list[tuple[slice, slice]]:
    """Inputs and outputs of every group of a convolution, whose kernel is (kh, kw, inputs, all outputs)."""
    groups = layer.options.get("groups_of_channels", 1)
    inputs, outputs = w8.shape[2], w8.shape[3] // groups
    return [
        (slice(i * inputs, (i + 1) * inputs), slice(i * outputs, (i + 1) * outputs)) for i in range(groups)
    ]


Update = Callable[[str, Array, Array], Array]
"""(parameter, its value, its gradient) to its new value."""


class Network:
    """The state of a network in training, and its steps."""

    def __init__(
        self, layers: Sequence[Layer], weights: Mapping[str, Array], *, input_c: Fraction = Fraction(1, 255)
    ):
        self.layers, self.input_c = list(layers), input_c
        self.w: dict[str, Array] = {name: f32(v).copy() for name, v in weights.items()}
        """Parameters; also running statistics, that no gradient changes."""
        kernels = [name for name in self.w if name.endswith("kernel")]
        self.ew = {name: self.exponent(self.w[name]) for name in kernels}
        self.ew_next = dict(self.ew)
        self.h: dict[str, int] = {}
        self.s: dict[str, int] = {}
        self.unsigned: dict[str, bool] = {}
        self.tensors: dict[str, Array] = {}
        self.keys: dict[str, int] = {}
        """Of the dropouts in the present step, by layer."""
        self.normalized: dict[str, tuple[Value, Array, list[tuple[Any, ...]]]] = {}
        self.moved: dict[str, Array] = {}
        """Running statistics as they will be after the step."""
        self.measuring: tuple[np.float32, np.float32] | None = None

    @staticmethod
    def exponent(w: Array) -> int:
        return max((int(np.abs(w).max().view(np.int32)) >> 23) - 133, -26)

    def quantizer(
        self, key: str, a: Array, *, unsigned: bool, seen: dict[str, int] | None
    ) -> tuple[Array, int]:
        """Sums to 8 bits by the shift that the step before left; what is seen of them decides the next."""
        shift = self.s.get(key, FIRST_SHIFT)
        self.unsigned[key] = unsigned
        if seen is not None:
            greatest = int(np.maximum(a, 0).max() if unsigned else min(int(np.abs(a).max()), 2**31 - 1))
            seen[key] = max(seen.get(key, 0), greatest)
        q = rne(np.clip(f32(a) * two_to(-shift), *((0, 255) if unsigned else (-127, 127))), -127, 255)
        self.tensors[key] = q
        return q, shift

    # --- forward ---------------------------------------------------------------------------------

    def forward(self, x: Array, seen: dict[str, int] | None = None) -> Value:
        """The logits of pictures of bytes, (n, h, w, c); `seen` collects maxima while training."""
        self.values: dict[str, Value] = {"input": Value(x.astype(np.int64), 0, self.input_c, unsigned=True)}
        self.w8: dict[str, Array] = {}
        last = "input"
        for layer in self.layers:
            inputs = [self.values[name] for name in layer.of or (last,)]
            self.values[layer.name] = getattr(self, f"forward_{layer.kind}")(layer, inputs, seen)
            last = layer.name
        return self.values[last]

    def weights_of(self, layer: Layer, x: Value) -> tuple[Array, int, Array]:
        """W8, the exponent of the sums, the bias as int32."""
        kernel, ew = self.w[f"{layer.name}/kernel"], self.ew[f"{layer.name}/kernel"]
        w8 = rne(f32(kernel * two_to(-ew)), -127, 127)
        self.w8[layer.name] = self.tensors[f"{layer.name}/w8"] = w8
        e = x.e + ew
        bias = self.w.get(f"{layer.name}/bias")
        if bias is None:
            return w8, e, np.zeros(1, np.int64)
        return w8, e, rne(f32(bias * (f32(1 / x.c) * two_to(-e))), -LIMIT, LIMIT)

    def finished(self, layer: Layer, a: Array, e: int, c: Fraction, seen: dict[str, int] | None) -> Value:
        """Sums as they are for a layer of logits, else requantized."""
        self.tensors[f"{layer.name}/sums"] = a
        if layer.options.get("logits"):
            return Value(a, e, c)
        if "fixed" in layer.options:
            return self.fixed(layer, a, e, c)
        unsigned = bool(layer.options.get("relu"))
        q, shift = self.quantizer(f"{layer.name}/y", a, unsigned=unsigned, seen=seen)
        return Value(q, e + shift, c, unsigned)

    def fixed(self, layer: Layer, a: Array, e: int, c: Fraction) -> Value:
        """Sums at an exponent that never changes, the factor brought to 1."""
        exponent, unsigned, high = layer.options["fixed"]
        unit = f32(f32(c) * two_to(-(exponent - e)))
        q = rne(np.clip(f32(f32(a) * unit), 0 if unsigned else -127, high), -127, 255)
        return Value(q, exponent, Fraction(1), unsigned)

    def forward_function(self, layer: Layer, inputs: list[Value], _: dict[str, int] | None) -> Value:
        """f of codes: where an exponent is given, of numbers; else of the codes themselves."""
        (x,) = inputs
        f, exponent, to, unsigned = layer.options["f"], *layer.options["table"]
        real = f(x.q.astype(np.float64) * 2.0**exponent)
        q = np.clip(np.rint(real * 2.0**-to), 0 if unsigned else -127, 255 if unsigned else 127)
        if exponent == to == 0:
            return Value(q.astype(np.int64), x.e, x.c, unsigned)
        return Value(q.astype(np.int64), to, Fraction(1), unsigned)

    def backward_function(self, layer: Layer, h: Value, sources: Sequence[str], *_: Any) -> None:
        x, f, exponent = self.values[sources[0]], layer.options["f"], layer.options["table"][0]
        real = x.q.astype(np.float64) * 2.0**exponent
        slope = np.clip(np.rint((f(real) - f(real - 2.0**-20)) * 2.0**20 * 64), -127, 127)
        q = np.clip(np.rint(f32(h.q * slope) * F(2.0**-6)), -127, 127).astype(np.int64)
        self.give(sources[0], Value(q, h.e, h.c))

    def forward_conv(self, layer: Layer, inputs: list[Value], seen: dict[str, int] | None) -> Value:
        (x,) = inputs
        w8, e, bias = self.weights_of(layer, x)
        taken = windows(x.q, layer.options, 0)
        sums = [
            product(
                taken[..., inputs].reshape(-1, w8[..., 0].size), w8[..., outputs].reshape(w8[..., 0].size, -1)
            )
            for inputs, outputs in channel_groups(layer, w8)
        ]
        a = wrap(np.concatenate(sums, axis=1).reshape(*taken.shape[:3], -1) + bias)
        return self.finished(layer, a, e, x.c, seen)

    def forward_depthwise(self, layer: Layer, inputs: list[Value], seen: dict[str, int] | None) -> Value:
        """Kernels (kh, kw, c, 1)."""
        (x,) = inputs
        w8, e, bias = self.weights_of(layer, x)
        a = (windows(x.q, layer.options, 0) * w8[..., 0]).sum(axis=(3, 4)) + bias
        return self.finished(layer, wrap(a), e, x.c, seen)

    def forward_dense(self, layer: Layer, inputs: list[Value], seen: dict[str, int] | None) -> Value:
        (x,) = inputs
        w8, e, bias = self.weights_of(layer, x)
        return self.finished(layer, wrap(product(x.q, w8) + bias), e, x.c, seen)

    def forward_max_pool(self, layer: Layer, inputs: list[Value], _: dict[str, int] | None) -> Value:
        (x,) = inputs
        return Value(windows(x.q, layer.options, -(1 << 20)).max(axis=(3, 4)), x.e, x.c, x.unsigned)

    def forward_average_pool(self, layer: Layer, inputs: list[Value], _: dict[str, int] | None) -> Value:
        (x,) = inputs
        sums = windows(x.q, layer.options, 0).sum(axis=(3, 4))
        mean = f32(sums) / f32(windows(np.ones_like(x.q), layer.options, 0).sum(axis=(3, 4)))
        return Value(rne(mean, *((0, 255) if x.unsigned else (-128, 127))), x.e, x.c, x.unsigned)

    def forward_global_average(self, layer: Layer, inputs: list[Value], seen: dict[str, int] | None) -> Value:
        (x,) = inputs
        sums = x.q.sum(axis=(1, 2))
        q, shift = self.quantizer(f"{layer.name}/y", sums, unsigned=x.unsigned, seen=seen)
        return Value(q, x.e + shift, x.c / (x.q.shape[1] * x.q.shape[2]), x.unsigned)

    def forward_concat(self, layer: Layer, inputs: list[Value], seen: dict[str, int] | None) -> Value:
        inputs = of_one_factor(inputs)
        e = max(min(v.e for v in inputs), max(v.e for v in inputs) - 16)
        joined = np.concatenate([rsh(v.q, e - v.e) for v in inputs], axis=-1)
        unsigned = all(v.unsigned for v in inputs)
        q, shift = self.quantizer(f"{layer.name}/y", joined, unsigned=unsigned, seen=seen)
        return Value(q, e + shift, inputs[0].c, unsigned)

    def forward_dropout(self, layer: Layer, inputs: list[Value], seen: dict[str, int] | None) -> Value:
        (x,) = inputs
        if seen is None:
            return x
        steps = round(layer.options["rate"] * 65536)
        i = np.arange(x.q.size, dtype=np.uint32) ^ np.uint32(self.keys[layer.name])
        i = (i ^ (i >> np.uint32(16))) * np.uint32(0x7FEB352D)
        i = (i ^ (i >> np.uint32(15))) * np.uint32(0x846CA68B)
        i = i ^ (i >> np.uint32(16))
        kept = (i >= np.uint32(steps << 16)).reshape(x.q.shape)
        self.tensors[f"{layer.name}/mask"] = kept
        return Value(np.where(kept, x.q, 0), x.e, x.c / (1 - Fraction(steps, 65536)), x.unsigned)

    def backward_dropout(self, layer: Layer, h: Value, sources: Sequence[str], *_: Any) -> None:
        kept = self.tensors[f"{layer.name}/mask"]
        share = 1 - Fraction(round(layer.options["rate"] * 65536), 65536)
        self.give(sources[0], Value(np.where(kept, h.q, 0), h.e, h.c / share))

    def forward_pad(self, layer: Layer, inputs: list[Value], _: dict[str, int] | None) -> Value:
        (x,) = inputs
        top, left, bottom, right = layer.options["pads"]
        q = np.pad(x.q, ((0, 0), (top, bottom), (left, right), (0, 0)))
        return Value(q, x.e, x.c, x.unsigned)

    def forward_batch_norm(self, layer: Layer, inputs: list[Value], seen: dict[str, int] | None) -> Value:
        """By the statistics of groups in training, else by the running ones."""
        (x,) = inputs
        q = x.q.reshape(len(x.q), -1, x.q.shape[-1])
        o, name = layer.options, layer.name
        gamma, beta = self.w[f"{name}/gamma"], self.w[f"{name}/beta"]
        lsb = f32(f32(x.c) * two_to(x.e))
        unit = f32(F(o["epsilon"]) / f32(lsb * lsb))
        moving = seen is not None or self.measuring is not None
        rows: list[tuple[Any, ...]] = []
        first = 0
        for count in o.get("groups", [len(q)]) if moving else [len(q)]:
            taken = q[first : first + count]
            if moving:
                m = F(count * taken.shape[1])
                mean = f32(f32(taken.sum(axis=(0, 1))) / m)
                squares = f32(f32((taken * taken).sum(axis=(0, 1))) / m)
                variance = np.maximum(f32(squares - f32(mean * mean)), F(0))
            else:
                mean = f32(self.w[f"{name}/mean"] / lsb)
                variance = f32(self.w[f"{name}/variance"] / f32(lsb * lsb))
            root = f32(F(1) / np.sqrt(f32(variance + unit)))
            rows.append((slice(first, first + count), mean, variance, root, f32(gamma * root)))
            first += count
        self.normalized[name] = x, q, rows
        made = np.zeros(q.shape, np.int64)
        for taken, mean, _, _, gain in rows:
            v = f32(f32(f32(q[taken]) * gain) + f32(beta - f32(mean * gain)))
            made[taken] = rne(f32(v * F(65536)), -LIMIT, LIMIT)
        if moving:
            self.move(layer, rows, lsb)
        return self.finished(layer, made.reshape(x.q.shape), -16, Fraction(1), seen)

    def move(self, layer: Layer, rows: Sequence[tuple[Any, ...]], lsb: np.float32) -> None:
        """What the running statistics are after the step."""
        groups, momentum = len(rows), layer.options["momentum"]
        keep, part = self.measuring or (F(momentum), F(1 - momentum))
        less = max(0, int(np.ceil(np.log2(groups / 128))))
        for kind, index, bits, power in (("mean", 1, 16, 1), ("variance", 2, 8, 2)):
            words = rne(f32(np.stack([r[index] for r in rows]) * F(2.0 ** (bits - less))), -LIMIT, LIMIT).sum(
                axis=0
            )
            new: Any = f32(f32(words) * F(2.0 ** (less - bits) / groups))
            for _ in range(power):
                new = f32(new * lsb)
            old = self.w[f"{layer.name}/{kind}"]
            self.moved[f"{layer.name}/{kind}"] = f32(f32(old * keep) + f32(new * part))

    def backward_batch_norm(
        self,
        layer: Layer,
        h: Value,
        sources: Sequence[str],
        out: dict[str, Array],
        inv_n: np.float32,
        seen: Any,
    ) -> None:
        name = layer.name
        x, q, rows = self.normalized[name]
        g = h.q.reshape(q.shape)
        bits = 8 - max(0, int(np.ceil(np.log2(q.shape[0] * q.shape[1] / 66_052))))
        made, scales = np.zeros(q.shape, np.int64), np.zeros(q.shape[2], np.int64)
        for taken, mean, _, root, gain in rows:
            m = F(g[taken].shape[0] * g[taken].shape[1])
            total, products = f32(g[taken].sum(axis=(0, 1))), f32((g[taken] * q[taken]).sum(axis=(0, 1)))
            s = f32(f32(products - f32(mean * total)) * root)
            slope = -f32(f32(gain * root) * f32(s / m))
            rest = f32(-f32(gain * f32(total / m)) - f32(slope * mean))
            scales += rne(f32(s * F(2.0**bits)), -LIMIT, LIMIT)
            v = f32(f32(f32(g[taken]) * gain) + f32(f32(f32(q[taken]) * slope) + rest))
            made[taken] = rne(f32(v * F(65536)), -LIMIT, LIMIT)
        out[f"{name}/gamma"] = self.parameter(f"{name}/gamma", scales, h.e - bits, h.c, inv_n)
        out[f"{name}/beta"] = self.parameter(f"{name}/beta", g.sum(axis=(0, 1)), h.e, h.c, inv_n)
        if sources[0] != "input":
            e, shift = self.quantizer(f"{name}/e", made.reshape(x.q.shape), unsigned=False, seen=seen)
            self.give(sources[0], Value(e, h.e - x.e - 16 + shift, h.c / x.c))

    def measure(self, batches: Sequence[Array]) -> None:
        """Exact statistics at the weights as they are: the mean over batches."""
        for number, x in enumerate(batches):
            self.measuring = F(number / (number + 1)), F(1 / (number + 1))
            self.moved = {}
            self.forward(x)
            self.w |= self.moved
        self.measuring = None

    def forward_repeat(self, layer: Layer, inputs: list[Value], _: dict[str, int] | None) -> Value:
        (x,) = inputs
        q = np.repeat(x.q, layer.options["count"], axis=layer.options["axis"])
        return Value(q, x.e, x.c, x.unsigned)

    def backward_repeat(
        self, layer: Layer, h: Value, sources: Sequence[str], _: Any, __: Any, seen: dict[str, int]
    ) -> None:
        count, axis = layer.options["count"], layer.options["axis"]
        turned = np.moveaxis(h.q, axis, 0)
        total = np.moveaxis(sum(turned[i::count] for i in range(1, count)) + turned[::count], 0, axis)
        q, shift = self.quantizer(f"{layer.name}/sum", total, unsigned=False, seen=seen)
        self.give(sources[0], Value(q, h.e + shift, h.c))

    def forward_flatten(self, _: Layer, inputs: list[Value], __: dict[str, int] | None) -> Value:
        (x,) = inputs
        return Value(x.q.reshape(len(x.q), -1), x.e, x.c, x.unsigned)

    def forward_relu(self, layer: Layer, inputs: list[Value], seen: dict[str, int] | None) -> Value:
        (x,) = inputs
        return self.finished(layer, x.q, x.e, x.c, seen)

    def backward_relu(self, _: Layer, h: Value, sources: Sequence[str], *__: Any) -> None:
        self.give(sources[0], h)

    def forward_reshape(self, layer: Layer, inputs: list[Value], _: dict[str, int] | None) -> Value:
        (x,) = inputs
        return Value(x.q.reshape(len(x.q), *layer.options["shape"]), x.e, x.c, x.unsigned)

    def forward_add(self, layer: Layer, inputs: list[Value], seen: dict[str, int] | None) -> Value:
        total, e = aligned_sum(inputs, layer.options.get("apart", 16))
        return self.finished(layer, total, e, inputs[0].c, seen)

    # --- loss ------------------------------------------------------------------------------------

    @staticmethod
    def loss(logits: Value, labels: Array) -> tuple[Array, Array, Array, Array]:
        """Errors of the logits, and d[label], z and the greatest index of each row."""
        table = np.exp((np.arange(256) - 255) / 16).astype(F)
        table[0] = 0
        below = logits.q - logits.q.max(axis=1, keepdims=True)
        d = rne(np.clip(f32(below) * f32(f32(logits.c) * two_to(logits.e + 4)), -255, 0), -255, 0)
        t = table[255 + d]
        z = np.zeros(len(t), F)
        for j in range(t.shape[1]):
            z = z + t[:, j]
        rows = np.arange(len(t))
        g = rne(t * F(127) / z[:, None], 0, 127)
        g[rows, labels] -= 127
        return g, d[rows, labels], z, logits.q.argmax(axis=1)

    def binary_loss(self, logits: Value, labels: Array) -> tuple[Value, Array]:
        """Errors of codes of logits in steps of 1/16, labels 0 and 1; the codes."""
        p = rne(np.clip(np.rint(256 / (1 + np.exp(-logits.q / 16.0))), 0, 255), 0, 255)
        g = np.clip(rsh(p, 1) - 128 * labels.astype(np.int64), -127, 127)
        return Value(g, -7, Fraction(1, labels.shape[1])), logits.q

    def squared_loss(self, values: Value, labels: Array, seen: dict[str, int]) -> tuple[Value, Array]:
        """Errors of sums, and what the sums stand for."""
        real = f32(f32(values.q) * f32(f32(values.c) * two_to(values.e)))
        r = f32(f32(real - labels) * F(2 / labels.shape[1]))
        q, shift = self.quantizer("loss", rne(f32(r * F(65536)), -LIMIT, LIMIT), unsigned=False, seen=seen)
        return Value(q, shift - 16, Fraction(1)), real

    # --- backward --------------------------------------------------------------------------------

    def backward(
        self, g: Array | Value, valid: int, seen: dict[str, int], weights: Array | None = None
    ) -> dict[str, Array]:
        """The gradients of all parameters, as float32; samples may count by weights."""
        first = g if isinstance(g, Value) else Value(g, -7, Fraction(1))
        self.errors: dict[str, list[Value]] = {self.layers[-1].name: [first]}
        gradients: dict[str, Array] = {}
        inv_n = F(1) / F(valid)
        if weights is not None:
            greatest = weights.max()
            shares = f32(weights / greatest) if greatest > 0 else weights
            q = rne(f32(f32(first.q) * shares[:, None]), -127, 127)
            self.errors[self.layers[-1].name] = [Value(q, first.e, first.c)]
            inv_n = f32(greatest / F(valid))
        for index in reversed(range(len(self.layers))):
            layer = self.layers[index]
            sources = layer.of or (self.layers[index - 1].name if index else "input",)
            h = self.summed(layer, seen)
            if layer.options.get("relu6"):
                y = self.values[layer.name].q.reshape(h.q.shape)
                h = Value(np.where((y > 0) & (y < layer.options["fixed"][2]), h.q, 0), h.e, h.c)
            if layer.options.get("relu"):
                h = Value(np.where(self.values[layer.name].q.reshape(h.q.shape) > 0, h.q, 0), h.e, h.c)
            self.tensors[f"{layer.name}/error"] = h.q
            getattr(self, f"backward_{layer.kind}")(layer, h, sources, gradients, inv_n, seen)
        return gradients

    def summed(self, layer: Layer, seen: dict[str, int]) -> Value:
        """The error of a layer's value: where it was read more than once, the sum, requantized."""
        given = self.errors[layer.name]
        if len(given) == 1:
            return given[0]
        total, e = aligned_sum(given, layer.options.get("fork_apart", 16))
        q, shift = self.quantizer(f"{layer.name}/fork", total, unsigned=False, seen=seen)
        return Value(q, e + shift, given[0].c)

    def give(self, name: str, error: Value) -> None:
        if name != "input":
            self.errors.setdefault(name, []).append(error)

    def parameter(self, name: str, sums: Array, e: int, c: Fraction, inv_n: np.float32) -> Array:
        """G = F(F(sum) * (k * 2^e)) with k = F(F(c) * inv_n)."""
        self.tensors[f"{name}/sum"] = sums
        return f32(f32(sums) * (f32(f32(c) * inv_n) * two_to(e)))

    def through_products(
        self, layer: Layer, h: Value, errors: Array, source: str, seen: dict[str, int]
    ) -> None:
        """The errors of a product's input, requantized."""
        q, shift = self.quantizer(f"{layer.name}/e", wrap(errors), unsigned=False, seen=seen)
        self.give(source, Value(q, h.e + self.ew[f"{layer.name}/kernel"] + shift, h.c))

    def backward_conv(
        self,
        layer: Layer,
        h: Value,
        sources: Sequence[str],
        out: dict[str, Array],
        inv_n: np.float32,
        seen: Any,
    ) -> None:
        x, w8 = self.values[sources[0]], self.w8[layer.name]
        errors = h.q.reshape(-1, w8.shape[-1])
        taken = windows(x.q, layer.options, 0)
        name, groups = f"{layer.name}/kernel", channel_groups(layer, w8)
        sums = [
            product(taken[..., inputs].reshape(len(errors), -1).T, errors[:, outputs]).reshape(
                *w8.shape[:3], -1
            )
            for inputs, outputs in groups
        ]
        out[name] = self.parameter(name, np.concatenate(sums, axis=3), h.e + x.e, h.c * x.c, inv_n)
        if f"{layer.name}/bias" in self.w:
            name = f"{layer.name}/bias"
            out[name] = self.parameter(name, errors.sum(axis=0), h.e, h.c, inv_n)
        if sources[0] != "input":
            given = [
                product(errors[:, o], w8[..., o].reshape(-1, o.stop - o.start).T).reshape(
                    len(errors), *w8.shape[:3]
                )
                for _, o in groups
            ]
            spread = np.concatenate(given, axis=-1).reshape(*h.q.shape[:3], *w8.shape[:2], -1)
            self.through_products(layer, h, scattered(spread, layer.options, x.q.shape), sources[0], seen)

    def backward_depthwise(
        self,
        layer: Layer,
        h: Value,
        sources: Sequence[str],
        out: dict[str, Array],
        inv_n: np.float32,
        seen: Any,
    ) -> None:
        x, w8 = self.values[sources[0]], self.w8[layer.name]
        taken = windows(x.q, layer.options, 0)
        sums = (taken * h.q[:, :, :, None, None, :]).sum(axis=(0, 1, 2))[..., None]
        name = f"{layer.name}/kernel"
        out[name] = self.parameter(name, sums, h.e + x.e, h.c * x.c, inv_n)
        name = f"{layer.name}/bias"
        if name in self.w:
            out[name] = self.parameter(name, h.q.sum(axis=(0, 1, 2)), h.e, h.c, inv_n)
        if sources[0] != "input":
            spread = h.q[:, :, :, None, None, :] * w8[..., 0]
            self.through_products(layer, h, scattered(spread, layer.options, x.q.shape), sources[0], seen)

    def backward_dense(
        self,
        layer: Layer,
        h: Value,
        sources: Sequence[str],
        out: dict[str, Array],
        inv_n: np.float32,
        seen: Any,
    ) -> None:
        x, w8 = self.values[sources[0]], self.w8[layer.name]
        name = f"{layer.name}/kernel"
        out[name] = self.parameter(name, product(x.q.T, h.q), h.e + x.e, h.c * x.c, inv_n)
        name = f"{layer.name}/bias"
        out[name] = self.parameter(name, h.q.sum(axis=0), h.e, h.c, inv_n)
        if sources[0] != "input":
            self.through_products(layer, h, product(h.q, w8.T), sources[0], seen)

    def backward_max_pool(self, layer: Layer, h: Value, sources: Sequence[str], *_: Any) -> None:
        x, o = self.values[sources[0]], layer.options
        taken = windows(x.q, o, -(1 << 20))
        flat = np.moveaxis(taken, -1, 3).reshape(*taken.shape[:3], taken.shape[-1], -1)
        first = flat.argmax(axis=-1)
        given = np.zeros(flat.shape, np.int64)
        np.put_along_axis(given, first[..., None], h.q[..., None], axis=-1)
        spread = np.moveaxis(given.reshape(*flat.shape[:4], *taken.shape[3:5]), 3, -1)
        (kh, kw), (sh, sw) = o["kernel"], o.get("strides", (1, 1))
        shift = (-(-kh // sh) * -(-kw // sw) - 1).bit_length()
        q = np.clip(rsh(scattered(spread, o, x.q.shape), shift), -127, 127)
        self.give(sources[0], Value(q, h.e + shift, h.c))

    def backward_average_pool(self, layer: Layer, h: Value, sources: Sequence[str], *_: Any) -> None:
        x, o = self.values[sources[0]], layer.options
        (kh, kw), (sh, sw) = o["kernel"], o.get("strides", (1, 1))
        valid = windows(np.ones_like(x.q), o, 0).sum(axis=(3, 4))
        g = rne(f32(f32(h.q) * f32(kh * kw / valid)), -127, 127)
        spread = np.broadcast_to(g[:, :, :, None, None, :], (*h.q.shape[:3], kh, kw, h.q.shape[3]))
        shift = (-(-kh // sh) * -(-kw // sw) - 1).bit_length()
        q = np.clip(rsh(scattered(spread, o, x.q.shape), shift), -127, 127)
        self.give(sources[0], Value(q, h.e + shift, h.c / (kh * kw)))

    def backward_global_average(self, _: Layer, h: Value, sources: Sequence[str], *__: Any) -> None:
        shape = self.values[sources[0]].q.shape
        q = np.broadcast_to(h.q.reshape(shape[0], 1, 1, -1), shape)
        self.give(sources[0], Value(q, h.e, h.c / (shape[1] * shape[2])))

    def backward_concat(self, _: Layer, h: Value, sources: Sequence[str], *__: Any) -> None:
        first = 0
        for name in sources:
            count = self.values[name].q.shape[-1]
            self.give(name, Value(h.q[..., first : first + count], h.e, h.c))
            first += count

    def backward_pad(self, layer: Layer, h: Value, sources: Sequence[str], *_: Any) -> None:
        top, left, *_rest = layer.options["pads"]
        _, rows, columns, _ = self.values[sources[0]].q.shape
        self.give(sources[0], Value(h.q[:, top : top + rows, left : left + columns], h.e, h.c))

    def backward_flatten(self, _: Layer, h: Value, sources: Sequence[str], *__: Any) -> None:
        self.give(sources[0], Value(h.q.reshape(self.values[sources[0]].q.shape), h.e, h.c))

    backward_reshape = backward_flatten

    def backward_add(self, _: Layer, h: Value, sources: Sequence[str], *__: Any) -> None:
        for name in sources:
            self.give(name, h)

    # --- the step --------------------------------------------------------------------------------

    def step(
        self, x: Array, labels: Array, update: Update, loss: str = "", weights: Array | None = None
    ) -> tuple[Array, ...]:
        """Train on a batch; d[label], z and the greatest index of each sample, or logits, or values."""
        seen: dict[str, int] = {}
        logits = self.forward(x, seen)
        if loss == "binary_crossentropy":
            g, *record = self.binary_loss(logits, labels)
        elif loss == "mean_squared_error":
            g, *record = self.squared_loss(logits, labels, seen)
        else:
            g, *record = self.loss(logits, labels)
        gradients = self.backward(g, len(labels), seen, weights)
        for name, gradient in gradients.items():
            self.w[name] = update(name, self.w[name], gradient)
            if name in self.ew:
                self.ew[name], self.ew_next[name] = self.ew_next[name], self.exponent(self.w[name])
        self.w |= self.moved
        for key, greatest in seen.items():
            before = self.h.get(key, 0)
            self.h[key] = max(greatest, before - (before >> LEAK))
            self.s[key] = max(0, self.h[key].bit_length() - (8 if self.unsigned[key] else 7))
        return tuple(record)


def sizes_of_groups(batch: int, group: int) -> tuple[int, ...]:
    """As many samples as a group has, again and again; then what is left."""
    sizes: list[int] = []
    while sum(sizes) < batch:
        sizes.append(min(group, batch - sum(sizes)))
    return tuple(sizes)


def of_one_factor(values: Sequence[Value]) -> list[Value]:
    """Values brought to the factor of the first: by a power of two, then by a number above 1/2."""
    found: list[Value] = []
    for v in values:
        ratio = v.c / values[0].c
        bits = int(np.ceil(np.log2(float(ratio))))
        low, high = (0, 255) if v.unsigned else (-127, 127)
        q = (
            v.q
            if ratio == Fraction(2) ** bits
            else rne(f32(f32(v.q) * f32(ratio / Fraction(2) ** bits)), low, high)
        )
        found.append(Value(q, v.e + bits, values[0].c, v.unsigned))
    return found


def aligned_sum(values: Sequence[Value], apart: int = 16) -> tuple[Array, int]:
    """The sum of values under one exponent, and that: the least, or so far below the greatest."""
    values = of_one_factor(values)
    e = max(min(v.e for v in values), max(v.e for v in values) - apart)
    shape = values[0].q.shape
    total: Array = np.zeros(shape, np.int64)
    for v in values:
        total = total + rsh(v.q.reshape(shape), e - v.e)
    return total, e
