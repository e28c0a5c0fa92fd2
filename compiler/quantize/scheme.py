"""How one network is quantized, tensor by tensor: what calibration finds, and what a person may edit.

As text a scheme is TOML. Layers and tensors are called as in the model.

    format = "x1.scheme/1"
    network = "mnist"
    calibration = "mse on 200 samples"
    granularity = "channel"
    equalize = false

    [tensors]
    "image" = { scale = 0.003921569, zero_point = -128 }

    [weights]
    "conv2d" = "tensor"

    [bias_correction]
    "conv2d" = [0.0012, -0.0003]
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from compiler.ir.graph import Graph
from compiler.ir.op import Product
from compiler.ir.types import DType, Quant
from isa.support.diagnostics import Diagnostic, Findings, UsageError, did_you_mean
from isa.support.locations import FileLoc
from isa.support.paths import read_file
from isa.support.records import Frozen, field

FORMAT: Final = "x1.scheme/1"
MAX_TEXT: Final = 1 << 26
GRANULARITIES: Final = ("channel", "tensor")
TINY: Final = float(np.finfo(np.float32).tiny)
LARGEST: Final = float(np.finfo(np.float32).max)
KEYS: Final = (
    "format",
    "network",
    "calibration",
    "granularity",
    "equalize",
    "tensors",
    "weights",
    "bias_correction",
)


class Scheme(Frozen):
    """Scales of activations by tensor, granularity of weights by layer, corrections of biases by layer.

    `granularity` is that of layers which `weights` does not name: a scale per output channel, or one per
    tensor; where it is empty, the first. A correction is added to the real bias, one number per output
    channel.
    """

    tensors: Mapping[str, Quant] = field(default_factory=dict[str, Quant])
    weights: Mapping[str, str] = field(default_factory=dict[str, str])
    corrections: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    granularity: str = ""
    equalize: bool = False
    network: str = ""
    calibration: str = ""

    def __repr__(self) -> str:
        return f"<Scheme of {self.network!r}: {len(self.tensors)} tensors, {self.calibration or 'given'}>"

    def require_names(self, graph: Graph) -> None:
        """Every tensor and layer that the scheme names must be one of the network.

        Raises:
            UsageError: some are not.
        """
        findings = Findings(UsageError)
        tensors = {n.name for n in graph.nodes()}
        layers = {n.name for n in graph.nodes() if isinstance(n.op, Product)}
        for table, known, what in (
            (self.tensors, tensors, "which"),
            (self.weights, layers, "a layer of weights that"),
            (self.corrections, layers, "a layer of weights that"),
        ):
            for name in table:
                if name not in known:
                    findings.add(
                        "scheme.name",
                        f"the scheme names '{name}', {what} the network '{graph.name}' does not have",
                        remedy=did_you_mean(name, known)
                        or "remove the line, or take the scheme of this network",
                    )
        findings.raise_if_any()

    def text(self) -> str:
        """The scheme as TOML; the same scheme gives the same text."""
        tensors = [
            f"{_quoted(name)} = {{ scale = {_number(q.scale)}, zero_point = {q.zero_point} }}"
            for name, q in self.tensors.items()
        ]
        weights = [f"{_quoted(name)} = {_quoted(kind)}" for name, kind in self.weights.items()]
        corrections = [
            f"{_quoted(name)} = [{', '.join(map(_number, values))}]"
            for name, values in self.corrections.items()
        ]
        said = (
            f"granularity = {_quoted(self.granularity)}  # of weights: a scale per output channel, or tensor"
        )
        granularity = [said] if self.granularity else []
        lines = [
            "# How a network is quantized. What is edited here is what is compiled: --scheme FILE.",
            f"format = {_quoted(FORMAT)}",
            f"network = {_quoted(self.network)}",
            f"calibration = {_quoted(self.calibration)}",
            *(granularity if self.granularity else []),
            f"equalize = {'true' if self.equalize else 'false'}",
            "",
            "[tensors]  # real = (code - zero_point) * scale, codes from -128 to 127",
            *tensors,
            "",
            "[weights]  # layers whose granularity is another",
            *weights,
            "",
            "[bias_correction]  # added to the bias of every output channel",
            *corrections,
        ]
        return "\n".join(lines) + "\n"

    @staticmethod
    def load(path: str | Path) -> Scheme:
        """The scheme of a file.

        Raises:
            UsageError: no such file, or no scheme.
        """
        content = read_file(path)
        if len(content) > MAX_TEXT:
            raise UsageError(
                Diagnostic("scheme.size", "the scheme is too large", FileLoc(str(path)), f"{MAX_TEXT} bytes")
            )
        try:
            return Scheme.parse(content.decode(), str(path))
        except UnicodeDecodeError:
            raise UsageError(
                Diagnostic("scheme.syntax", "the scheme is not UTF-8 text", FileLoc(str(path)))
            ) from None

    @staticmethod
    def parse(text: str, path: str) -> Scheme:
        """The scheme of a text; `path` is for messages.

        Raises:
            UsageError: the text is no scheme.
        """
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError
            raise UsageError(
                Diagnostic("scheme.syntax", f"the scheme is not TOML: {error}", FileLoc(path))
            ) from None
        return _Reader(text, path, content).scheme()


class _Reader:
    """From parsed TOML to a scheme; every mistake is collected."""

    def __init__(self, text: str, path: str, content: Mapping[str, Any]) -> None:
        self.path, self.content = path, content
        self.lines = [
            line.partition("]")[0] + "]" if line.startswith("[") else line for line in text.splitlines()
        ]
        self.table = ""
        self.findings = Findings(UsageError)

    def scheme(self) -> Scheme:
        if self.content.get("format") != FORMAT:
            self._wrong("format", f"format = {self.content.get('format')!r}", f'format = "{FORMAT}"')
        for key in self.content:
            if key not in KEYS:
                self._wrong(key, f"there is no key '{key}'", ", ".join(KEYS), did_you_mean(key, KEYS))
        granularity = self.content.get("granularity")
        made = Scheme(
            self._table("tensors", self._quant),
            self._table("weights", self._granularity),
            self._table("bias_correction", self._correction),
            "" if granularity is None else self._granularity("granularity", granularity) or "",
            self._value("equalize", bool, default=False),
            self._value("network", str, ""),
            self._value("calibration", str, ""),
        )
        self.findings.raise_if_any()
        return made

    def _value(self, key: str, kind: type[Any], default: Any) -> Any:
        value = self.content.get(key, default)
        if not isinstance(value, kind):
            self._wrong(key, f"{key} = {value!r}", {bool: "true, false", str: "a string"}[kind])
        return value

    def _table(self, key: str, entry: Callable[[str, Any], Any]) -> dict[str, Any]:
        table = self.content.get(key, {})
        if not isinstance(table, Mapping):
            self._wrong(key, f"{key} is {table!r}", "a table")
            return {}
        named = cast("Mapping[str, Any]", table)
        self.table = key
        read = {name: entry(name, value) for name, value in named.items()}
        self.table = ""
        return {name: value for name, value in read.items() if value is not None}

    def _quant(self, name: str, value: Any) -> Quant | None:
        given: Mapping[str, Any] = cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
        if set(given) != {"scale", "zero_point"}:
            self._wrong(name, f"'{name}' has other keys", "{ scale = ..., zero_point = ... }")
            return None
        scale, zero = given["scale"], given["zero_point"]
        low, high = DType.I8.bounds
        if not _is_number(scale) or scale < TINY:
            self._wrong(
                name, f"the scale of '{name}' is {scale!r}", f"a number from {TINY:.4g} to {LARGEST:.4g}"
            )
            return None
        if not isinstance(zero, int) or isinstance(zero, bool) or not low <= zero <= high:
            self._wrong(
                name, f"the zero point of '{name}' is {zero!r}", f"a whole number from {low} to {high}"
            )
            return None
        return Quant((float(np.float32(scale)),), zero)

    def _granularity(self, name: str, value: Any) -> str | None:
        if value in GRANULARITIES:
            return str(value)
        self._wrong(
            name,
            f"the granularity '{name}' is {value!r}",
            ", ".join(GRANULARITIES),
            did_you_mean(str(value), GRANULARITIES),
        )
        return None

    def _correction(self, name: str, value: Any) -> tuple[float, ...] | None:
        values: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
        if isinstance(value, list) and all(map(_is_number, values)):
            return tuple(float(np.float32(v)) for v in values)
        self._wrong(name, f"the correction of '{name}' is no list of numbers", "[0.0, ...]")
        return None

    def _wrong(self, key: str, message: str, allowed: str, remedy: str = "") -> None:
        """Note a mistake at the line of its key, below the head of its table."""
        start = self.lines.index(f"[{self.table}]") + 1 if f"[{self.table}]" in self.lines else 0
        heads = (f"{key} ", f"{key}=", _quoted(key))
        below = (n for n, t in enumerate(self.lines[start:], start + 1) if t.strip().startswith(heads))
        self.findings.add(
            "scheme.value", message, FileLoc(self.path, next(below, 0)), allowed=allowed, remedy=remedy
        )


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= LARGEST  # also of NaN, and of whole numbers beyond any float


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's differ in DEL alone."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _number(value: float) -> str:
    """The shortest decimal that gives the float32 back."""
    return str(float(str(np.float32(value))))
