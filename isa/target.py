"""Machine configurations: memories, array shape, latencies, as validated TOML.

A target file lists the keys below; `base = "edge32"` takes every key that is not given from a
shipped target. `--set section.key=value` changes one key. A `Target` is resolved and complete:
its canonical JSON stands in every binary, so that a binary carries the machine it was made for.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final, cast

from isa.support.diagnostics import Diagnostic, Findings, TargetError, did_you_mean
from isa.support.locations import FileLoc, Loc
from isa.support.paths import is_file
from isa.support.records import Frozen, described, descriptions, field, names_of, to_builtins
from isa.versions import ISA_VERSION

EXTENSIONS: Final = {
    "T": "training",
    "W": "4-bit weights",
    "X": "16-bit activations",
    "F": "fixed-point requantization",
    "N": "network",
    "L": "loops",
}
MAX_TARGET_FILE: Final = 1 << 16
MAX_DEVICES: Final = 1024
TOPOLOGIES: Final = ("ring", "mesh", "full")


def _key(low: int, high: int, doc: str, *, power_of_two: bool = False) -> Any:
    """A whole number within low..high."""
    return described(low=low, high=high, doc=doc, pow2=power_of_two)


def _flag(doc: str) -> Any:
    return described(doc=doc)


def _choice(values: Sequence[str], doc: str) -> Any:
    """One of some words."""
    return described(values=tuple(values), doc=doc)


class MatrixArray(Frozen):
    """The weight-stationary array."""

    rows: int = _key(1, 256, "input channels multiplied at once (R)")
    cols: int = _key(1, 256, "output channels per pass (C); int32 lanes of an accumulator row")
    wload_double: bool = _flag("the next weights load while the present ones are used")


class VectorUnit(Frozen):
    """The vector engine."""

    lanes: int = _key(1, 1024, "elements per cycle (V)")
    dw_taps: int = _key(1, 16, "depthwise taps per lane and cycle (T)")
    startup: int = _key(0, 1024, "cycles before the first result")


class Scratchpad(Frozen):
    """The int8 scratchpad SPM."""

    bytes: int = _key(1024, 1 << 23, "size in bytes")
    banks: int = _key(1, 64, "single-ported banks")
    interleave: bool = _flag("consecutive port words lie in consecutive banks")
    port_bytes: int = _key(1, 1024, "bytes per cycle and bank")


class Accumulators(Frozen):
    """The int32 accumulators ACC."""

    rows: int = _key(8, 1 << 14, "rows of cols x int32")
    banks: int = _key(1, 64, "banks")


class ParameterMemory(Frozen):
    """The parameter memory PRM."""

    bytes: int = _key(512, 1 << 19, "size in bytes, a multiple of 256")


class Dma(Frozen):
    """The load and store engines."""

    ld_channels: int = _key(1, 1, "load engines")
    st_channels: int = _key(1, 1, "store engines")
    burst: int = _key(1, 4096, "bytes of a DRAM burst", power_of_two=True)
    row_overhead: int = _key(0, 1024, "cycles lost at each row that does not continue the last")


class Dram(Frozen):
    """The memory outside the chip."""

    bytes_per_cycle: int = _key(1, 1 << 16, "bandwidth (B)")
    latency_read: int = _key(0, 1 << 20, "cycles until the first byte arrives")
    latency_write: int = _key(0, 1 << 20, "cycles until a store is visible")
    size: int = _key(1 << 12, 1 << 37, "bytes of all regions together")


class Control(Frozen):
    """Fetch, dispatch, queues and semaphores."""

    queue_depth: int = _key(1, 1024, "instructions waiting per engine")
    dispatch: int = _key(1, 16, "cycles per dispatched instruction")
    issue: int = _key(0, 64, "cycles an engine needs to start an instruction")
    sems: int = _key(1, 32, "semaphores per core")
    sem_max: int = _key(1, 15, "capacity of a semaphore")


class Network(Frozen):
    """Links between devices."""

    devices: int = _key(1, MAX_DEVICES, "devices that can be linked")
    topology: str = _choice(TOPOLOGIES, "how devices are linked: to two neighbours, in a grid, each to each")
    cols: int = _key(1, MAX_DEVICES, "devices of a row of a mesh")
    bytes_per_cycle: int = _key(1, 1 << 16, "bandwidth of a link, in each direction")
    latency: int = _key(0, 1 << 20, "cycles from one end of a link to the other")


SECTIONS: Final[dict[str, type]] = {
    "mx": MatrixArray,
    "vx": VectorUnit,
    "spm": Scratchpad,
    "acc": Accumulators,
    "prm": ParameterMemory,
    "dma": Dma,
    "dram": Dram,
    "ctl": Control,
    "net": Network,
}
TARGET_KEYS: Final = ("name", "isa", "ext", "clock_mhz", "cores")


class Target(Frozen, dict=True):
    """One machine, complete and checked."""

    name: str
    isa: str
    ext: tuple[str, ...]
    clock_mhz: int
    cores: int
    mx: MatrixArray
    vx: VectorUnit
    spm: Scratchpad
    acc: Accumulators
    prm: ParameterMemory
    dma: Dma
    dram: Dram
    ctl: Control
    net: Network

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON: sorted keys, no spaces; nested as in the TOML file."""
        values: dict[str, object] = to_builtins(self)
        head = {key: values.pop(key) for key in TARGET_KEYS}
        return json.dumps({"target": head, **values}, sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    def flat(self) -> dict[str, object]:
        """`section.key` to value, for listings and comparisons."""
        tree = cast("dict[str, dict[str, object]]", json.loads(self.canonical))
        return {f"{s}.{k}": v for s, keys in tree.items() for k, v in keys.items()}


def shipped_targets() -> list[str]:
    """The names of the targets that come with the package."""
    folder = resources.files("isa") / "targets"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def load_target(name_or_path: str, overrides: Sequence[str] = (), folder: Path | None = None) -> Target:
    """The target of that name or TOML file, with `section.key=value` overrides applied.

    A path is relative to `folder`, or to the current one.

    Raises:
        TargetError: an unknown name or key, a value outside its range, a file that is no target.
    """
    tree, loc = _read(name_or_path, folder or Path())
    findings = Findings(TargetError)
    overridden: dict[str, Loc] = {}
    for override in overrides:
        _apply_override(tree, override, findings, overridden)
    target = _build(tree, Places(loc, overridden), findings)
    findings.raise_if_any()
    assert target is not None
    return target


def target_from_json(text: str) -> Target:
    """The target from the canonical JSON of a binary; checked like a file."""
    findings = Findings(TargetError)
    loc = FileLoc(".x1.target")
    try:
        tree: object = json.loads(text)
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        findings.add("target.syntax", "the target is not a JSON object", loc)
        findings.raise_if_any()
    target = _build(cast("dict[str, object]", tree), Places(loc), findings)
    findings.raise_if_any()
    assert target is not None
    return target


def device_fault(t: Target, devices: int) -> Diagnostic | None:
    """Why so many devices of a target cannot work together, or None."""
    if devices > t.net.devices:
        return Diagnostic(
            "target.devices",
            f"there are {devices} devices, more than the target '{t.name}' links",
            allowed=f"at most net.devices={t.net.devices}",
            remedy=f"--set net.devices={devices}, where the machine is meant to have so many",
        )
    if t.net.topology == "mesh" and devices > 1 and devices % t.net.cols:
        return Diagnostic(
            "target.devices",
            f"{devices} devices do not make whole rows of a mesh with net.cols={t.net.cols}",
            allowed=f"multiples of {t.net.cols}",
            remedy="another number of devices, or --set net.cols=N",
        )
    return None


def capability_shortfalls(
    needed: Target, offered: Target, devices: int = 1
) -> list[tuple[str, object, object]]:
    """Keys by which `offered` falls short of what a binary for so many devices of `needed` may use.

    The array shape fixes the data layout, so it must be equal; sizes and limits must be at least
    as large. Rates and latencies do not matter to what a program computes.
    """
    equal = {"mx.rows", "mx.cols", "target.isa"}
    at_least = {"spm.bytes", "acc.rows", "prm.bytes", "dram.size", "ctl.sems", "ctl.sem_max", "target.cores"}
    have, want = offered.flat(), needed.flat()
    short = [(k, want[k], have[k]) for k in sorted(equal) if want[k] != have[k]]
    short += [(k, want[k], have[k]) for k in sorted(at_least) if cast("int", have[k]) < cast("int", want[k])]
    if offered.net.devices < devices:
        short.append(("net.devices", devices, offered.net.devices))
    short += [("target.ext", e, ",".join(offered.ext)) for e in needed.ext if e not in offered.ext]
    return short


def _read(name_or_path: str, folder: Path) -> tuple[dict[str, object], Loc]:
    if name_or_path.endswith(".toml"):
        path = folder / name_or_path
        loc = FileLoc(name_or_path)
        if not is_file(path):
            raise _error(
                "target.missing",
                "no such target file",
                loc,
                f"one of {', '.join(shipped_targets())}, or a .toml file",
            )
        with path.open("rb") as file:
            data = file.read(MAX_TARGET_FILE + 1)
    else:
        loc = FileLoc(f"{name_or_path}.toml")
        if name_or_path not in shipped_targets():
            known = shipped_targets()
            raise _error(
                "target.unknown",
                f"there is no target '{name_or_path}'",
                FileLoc(""),
                f"{', '.join(known)}, or the path of a .toml file",
                did_you_mean(name_or_path, known),
            )
        data = (resources.files("isa") / "targets" / f"{name_or_path}.toml").read_bytes()
    return _resolve_base(_parse(data, loc), loc), loc


def _parse(data: bytes, loc: Loc) -> dict[str, object]:
    if len(data) > MAX_TARGET_FILE:
        raise _error("target.size", "the target file is too large", loc, f"at most {MAX_TARGET_FILE} bytes")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _error("target.syntax", f"not a TOML file: {error}", loc) from None


def _resolve_base(tree: dict[str, object], loc: Loc) -> dict[str, object]:
    head = tree.get("target")
    if not isinstance(head, dict) or "base" not in head:
        return tree
    table = cast("dict[str, object]", head)
    base = table.pop("base")
    if base not in shipped_targets():
        raise _error(
            "target.base",
            f"the base '{base}' is not a shipped target",
            loc,
            ", ".join(shipped_targets()),
            did_you_mean(str(base), shipped_targets()),
        )
    merged, _ = _read(str(base), Path())
    for section, keys in tree.items():
        below = merged.get(section)
        if isinstance(below, dict) and isinstance(keys, dict):
            cast("dict[str, object]", below).update(cast("dict[str, object]", keys))
        else:
            merged[section] = keys
    return merged


def _apply_override(
    tree: dict[str, object], override: str, findings: Findings, overridden: dict[str, Loc]
) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot:
        findings.add(
            "target.override",
            f"'{override}' is not of the form section.key=value",
            remedy="for example dram.bytes_per_cycle=16",
        )
        return
    overridden[f"{section}.{name}"] = FileLoc(f"--set {override}")
    try:
        value: object = tomllib.loads(f"v = {text.strip()}")["v"]
    except ValueError:
        value = text.strip()
    table = tree.setdefault(section, {})
    if isinstance(table, dict):
        cast("dict[str, object]", table)[name] = value


class Places(Frozen):
    """Where each key was given: in the file, or by an override."""

    file: Loc
    overridden: Mapping[str, Loc] = field(default_factory=dict[str, Loc])

    def __call__(self, *paths: str) -> Loc:
        """The override that gave one of these keys (a path that ends in a dot is a section), or the file."""
        found = (loc for key, loc in self.overridden.items() for path in paths if _names(path, key))
        return next(found, self.file)


def _names(path: str, key: str) -> bool:
    return key == path or (path.endswith(".") and key.startswith(path))


def _build(tree: Mapping[str, object], places: Places, findings: Findings) -> Target | None:
    sections = {"target": TARGET_KEYS, **{s: names_of(c) for s, c in SECTIONS.items()}}
    everything = [f"{s}.{k}" for s, keys in sections.items() for k in keys]
    values: dict[str, dict[str, object]] = {}
    for section, keys in tree.items():
        if section not in sections or not isinstance(keys, dict):
            findings.add(
                "target.section",
                f"there is no section [{section}]",
                places(f"{section}."),
                allowed=", ".join(sections),
                remedy=did_you_mean(section, sections),
            )
            continue
        values[section] = cast("dict[str, object]", keys)
        for key in values[section]:
            if key not in sections[section]:
                findings.add(
                    "target.key",
                    f"there is no key '{section}.{key}'",
                    places(f"{section}.{key}"),
                    allowed=", ".join(f"{section}.{k}" for k in sections[section]),
                    remedy=did_you_mean(f"{section}.{key}", everything),
                )
    head = _check_head(values.get("target", {}), places, findings)
    parts = {s: _check_section(s, c, values.get(s, {}), places, findings) for s, c in SECTIONS.items()}
    if findings.found:
        return None
    target = Target(**cast("dict[str, Any]", head), **cast("dict[str, Any]", parts))
    _check_together(target, places, findings)
    return target


def _check_head(given: Mapping[str, object], places: Places, findings: Findings) -> dict[str, object]:
    head: dict[str, object] = {k: given.get(k) for k in TARGET_KEYS}
    for key in (k for k in TARGET_KEYS if k not in given):
        findings.add("target.missing-key", f"the key 'target.{key}' is missing", places(f"target.{key}"))
    name = given.get("name", "")
    if not isinstance(name, str) or len(name) > 64 or not name.replace("-", "").replace("_", "").isalnum():
        findings.add(
            "target.value",
            f"target.name={name!r} is not a name",
            places("target.name"),
            allowed="letters, digits, - and _, at most 64",
        )
    if given.get("isa", ISA_VERSION) != ISA_VERSION:
        findings.add(
            "target.value",
            f"target.isa={given['isa']!r} is another ISA version",
            places("target.isa"),
            allowed=repr(ISA_VERSION),
        )
    ext = given.get("ext", [])
    if not isinstance(ext, list) or not all(
        isinstance(e, str) and e in EXTENSIONS for e in cast("list[object]", ext)
    ):
        findings.add(
            "target.value",
            f"target.ext={ext!r} is not a list of extension letters",
            places("target.ext"),
            allowed=", ".join(f"{k} ({v})" for k, v in EXTENSIONS.items()),
        )
    else:
        head["ext"] = tuple(sorted({str(e) for e in cast("list[object]", ext)}))
    for key, low, high in (("clock_mhz", 1, 100_000), ("cores", 1, 1)):
        _check_number(f"target.{key}", given.get(key, low), low, high, places, findings)
    return head


def _check_section(
    section: str, cls: type[Frozen], given: Mapping[str, object], places: Places, findings: Findings
) -> object:
    for name, about in descriptions(cls):
        path = f"{section}.{name}"
        if name not in given:
            findings.add(
                "target.missing-key",
                f"the key '{path}' is missing",
                places(path),
                remedy='give it, or take it from a shipped target: base = "edge32" in [target]',
            )
            continue
        value = given[name]
        if "values" in about:
            if value not in about["values"]:
                findings.add(
                    "target.value",
                    f"{path}={value!r} has no meaning",
                    places(path),
                    allowed=", ".join(about["values"]),
                    remedy=did_you_mean(str(value), about["values"]),
                )
            continue
        if "low" not in about:
            if not isinstance(value, bool):
                findings.add(
                    "target.value",
                    f"{path}={value!r} is not a truth value",
                    places(path),
                    allowed="true, false",
                )
            continue
        low, high = about["low"], about["high"]
        if _check_number(path, value, low, high, places, findings) and about["pow2"]:
            number = cast("int", value)
            if number & (number - 1):
                findings.add("target.value", f"{path}={number} is not a power of two", places(path))
    known = {name: given.get(name) for name in names_of(cls)}
    return None if findings.found else cls(**known)


def _check_number(path: str, value: object, low: int, high: int, places: Places, findings: Findings) -> bool:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        findings.add(
            "target.value",
            f"{path}={value!r} is outside {low}..{high}",
            places(path),
            allowed=f"a whole number, {low}..{high}",
        )
        return False
    return True


def _check_together(t: Target, places: Places, findings: Findings) -> None:
    """Constraints between keys."""
    widest = max(t.mx.rows, t.mx.cols, t.vx.lanes)
    if t.spm.port_bytes < widest:
        findings.add(
            "target.port",
            f"spm.port_bytes={t.spm.port_bytes} is narrower than the engines",
            places("spm.port_bytes", "mx.rows", "mx.cols", "vx.lanes"),
            allowed=f"at least max(mx.rows, mx.cols, vx.lanes) = {widest}",
        )
    for path, size, parts in (("spm.bytes", t.spm.bytes, t.spm.banks), ("acc.rows", t.acc.rows, t.acc.banks)):
        if size % parts:
            findings.add(
                "target.banks",
                f"{path}={size} does not divide into {parts} banks",
                places(path, path.split(".")[0] + ".banks"),
            )
    if t.net.topology == "mesh" and t.net.devices % t.net.cols:
        findings.add(
            "target.mesh",
            f"net.devices={t.net.devices} does not divide into rows of net.cols={t.net.cols}",
            places("net.cols", "net.devices"),
        )
    if t.prm.bytes % 256:
        findings.add("target.value", f"prm.bytes={t.prm.bytes} is not a multiple of 256", places("prm.bytes"))
    if t.mx.cols % 8:
        findings.add(
            "target.value",
            f"mx.cols={t.mx.cols} is not a multiple of 8",
            places("mx.cols"),
            remedy="weight groups start at multiples of 8 bytes",
        )


def _error(code: str, message: str, loc: Loc, allowed: str = "", remedy: str = "") -> TargetError:
    return TargetError(Diagnostic(code, message, loc, allowed, remedy))
