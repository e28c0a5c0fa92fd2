"""Assembly text to programs.

The text is read line by line, so that every mistake of a file is reported. Directives act in
order; instructions are put together at the end, so that a symbol may be used before its line.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from lark import Lark, Token, Tree

from isa.assembly_text import Shorthand, operands_by_name, shorthands
from isa.diagnostics import AssemblyError, Diagnostic, X1Error, did_you_mean
from isa.encoding import operand_faults
from isa.locations import FileLoc
from isa.parsing import Parsed as Node
from isa.parsing import SyntaxProblem, grammar, parse
from isa.program import (
    Abi,
    DebugMap,
    Interface,
    MapRow,
    Note,
    Operators,
    OpRow,
    Program,
    Symbol,
    float_bits,
    volume,
)
from isa.spec import INSTRUCTIONS, WORD_BYTES, Engine, Instruction, Space
from isa.target import Target, load_target
from isa.validate import instruction_faults
from isa.versions import ISA_VERSION

REGION_SHIFT: Final = 40
"""In an expression, Rn stands for n << 40: a region and an offset in one number."""
MAX_TEXT: Final = 64 << 20
MAX_DATA: Final = 1 << 32
_TEXT_SECTION: Final = ".text"
_DATA_REGION: Final = {".weights": 0, ".params": 5}
_SIZED_REGIONS: Final = (1, 2, 3)
_FLOAT_WORDS: Final = {"inf": float("inf"), "nan": float("nan")}


class _Mistake(Exception):
    """A mistake at a place of a line; becomes a diagnostic."""

    def __init__(
        self, message: str, at: Node | Token | None = None, *, allowed: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.message, self.at, self.allowed, self.remedy = message, at, allowed, remedy


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str


@dataclass(slots=True)
class _Pending:
    """An instruction that waits for its symbols."""

    line: _Line
    tree: Node
    op: int | None


@dataclass
class Assembly:
    """What the lines of a file have said so far."""

    path: str
    folder: Path
    target: Target | None = None
    symbols: dict[str, int] = field(default_factory=dict[str, int])
    listed: list[Symbol] = field(default_factory=list[Symbol])
    semaphores: dict[str, int] = field(default_factory=dict[str, int])
    sections: dict[str, bytearray] = field(default_factory=dict[str, bytearray])
    raw: dict[str, bytes] = field(default_factory=dict[str, bytes])
    sizes: dict[int, int] = field(default_factory=dict[int, int])
    section: str = _TEXT_SECTION
    ops: dict[int, OpRow] = field(default_factory=dict[int, OpRow])
    current_op: int | None = None
    pending: list[_Pending] = field(default_factory=list[_Pending])
    tensors: list[tuple[str, Interface]] = field(default_factory=list[tuple[str, Interface]])
    diagnostics: list[Diagnostic] = field(default_factory=list[Diagnostic])


def assemble(text: str, path: str = "<text>", folder: Path | None = None) -> Assembled:
    """The program that the text describes; `folder` is where `.incbin` may read.

    Raises:
        AssemblyError: every mistake of the text.
    """
    state = Assembly(path, folder or Path())
    if len(text) > MAX_TEXT:
        raise AssemblyError(
            Diagnostic(
                "asm.size", f"the text has {len(text)} characters", FileLoc(path), f"at most {MAX_TEXT}"
            )
        )
    parser = grammar("isa", "assembly")
    for number, content in enumerate(text.splitlines(), 1):
        if content.strip() and not content.lstrip().startswith(";"):
            _read_line(state, parser, _Line(number, content))
    program = _finish(state)
    if state.diagnostics:
        raise AssemblyError(sorted(state.diagnostics, key=_order))
    assert program is not None
    return Assembled(program, state.raw)


@dataclass(frozen=True, slots=True)
class Assembled:
    """The program of a text, and the sections that it takes from files as they are."""

    program: Program
    raw: Mapping[str, bytes]


def _order(d: Diagnostic) -> tuple[int, int]:
    return (d.loc.line, d.loc.column) if isinstance(d.loc, FileLoc) else (0, 0)


def _read_line(state: Assembly, parser: Lark, line: _Line) -> None:
    try:
        tree = parse(parser, line.text)
    except SyntaxProblem as problem:
        state.diagnostics.append(_syntax(state, line, problem))
        return
    for child in tree.children:
        assert isinstance(child, Tree)
        try:
            if child.data == "label":
                _label(state, cast("Token", child.children[0]))
            elif child.data == "instruction":
                _instruction_line(state, line, child)
            else:
                DIRECTIVES[str(child.data)](state, child)
        except _Mistake as mistake:
            state.diagnostics.append(_place(state, line, mistake))
        except X1Error as error:
            state.diagnostics += [replace(d, loc=FileLoc(state.path, line.number)) for d in error.diagnostics]


def _syntax(state: Assembly, line: _Line, problem: SyntaxProblem) -> Diagnostic:
    loc = FileLoc(state.path, line.number, problem.column, problem.column + problem.width)
    message = problem.message.replace("the text ends", "the line ends")
    allowed = "label:, mnemonic name=value, ..., wait(n), signal(n), or a directive"
    return Diagnostic("asm.syntax", message, loc, allowed, source_line=line.text)


def _place(state: Assembly, line: _Line, mistake: _Mistake) -> Diagnostic:
    column = end = 0
    at = mistake.at
    if isinstance(at, Token):
        column, end = at.column or 0, at.end_column or 0
    elif at is not None and not at.meta.empty:
        column, end = at.meta.column, at.meta.end_column
    return Diagnostic(
        "asm.error",
        mistake.message,
        FileLoc(state.path, line.number, column, end),
        mistake.allowed,
        mistake.remedy,
        source_line=line.text,
    )


# --- expressions ---------------------------------------------------------------------------------


def _evaluate(state: Assembly, node: Node | Token) -> int:
    """The value of an expression.

    Raises:
        _Mistake: an unknown symbol, or a value beyond 62 bits.
    """
    assert isinstance(node, Tree)
    match node.data:
        case "number":
            value = int(cast("Token", node.children[0]), 0)
        case "symbol":
            value = _symbol(state, cast("Token", node.children[0]))
        case "neg":
            value = -_evaluate(state, node.children[0])
        case _:
            left, right = (_evaluate(state, c) for c in node.children)
            value = {"add": left + right, "sub": left - right, "mul": left * right}[str(node.data)]
    if abs(value) >= 1 << 62:
        raise _Mistake("the value does not fit into 62 bits", node)
    return value


def _symbol(state: Assembly, name: Token) -> int:
    if len(name) == 2 and name[0] == "R" and name[1].isdigit() and int(name[1]) < 8:
        return int(name[1]) << REGION_SHIFT
    if name in state.symbols:
        return state.symbols[name]
    raise _Mistake(f"the symbol '{name}' is not defined", name, remedy=did_you_mean(name, state.symbols))


def _define(state: Assembly, name: Token, value: int) -> None:
    if name in state.symbols:
        raise _Mistake(f"the symbol '{name}' is defined twice", name)
    state.symbols[str(name)] = value


# --- instructions --------------------------------------------------------------------------------


def _label(state: Assembly, name: Token) -> None:
    if state.section == _TEXT_SECTION:
        value, section = len(state.pending) * WORD_BYTES, ".text.core0"
    else:
        value, section = len(_data(state, name)), state.section
    _define(state, name, value)
    state.listed.append(Symbol(str(name), section, value, 0))


def _instruction_line(state: Assembly, line: _Line, tree: Node) -> None:
    name = cast("Token", tree.children[0])
    if state.section != _TEXT_SECTION:
        raise _Mistake(f"instructions belong into .text, not {state.section}", name)
    if name not in INSTRUCTIONS:
        raise _Mistake(
            f"there is no instruction '{name}'",
            name,
            remedy=did_you_mean(name, INSTRUCTIONS) or "docs/isa lists them",
        )
    state.pending.append(_Pending(line, tree, state.current_op))


def read_instruction(text: str) -> Instruction:
    """The instruction of one line that uses no symbols.

    Raises:
        AssemblyError: the line is no instruction.
    """
    state, line = Assembly("<text>", Path()), _Line(1, text)
    _read_line(state, grammar("isa", "assembly"), line)
    instrs = _built(state)
    if state.diagnostics or len(instrs) != 1:
        raise AssemblyError(state.diagnostics or Diagnostic("asm.error", "the line is no instruction"))
    return instrs[0]


def _build(state: Assembly, tree: Node) -> Instruction:
    cls = INSTRUCTIONS[str(tree.children[0])]
    values: dict[str, int] = {}
    slots: dict[str, tuple[int, ...]] = {"waits": (), "signals": ()}
    places: dict[str, Node] = {}
    positional = [s for s in shorthands(cls) if not s.name]
    for child in tree.children[1:]:
        assert isinstance(child, Tree)
        if child.data in slots:
            slots[str(child.data)] = tuple(_semaphore(state, c) for c in child.children)
            continue
        for item in cast("list[Node]", child.children):
            for name, value in _item(state, cls, item, positional):
                if name in values:
                    raise _Mistake(f"'{name}' is given twice", item)
                values[name], places[name] = value, item
    enums = {o.name: o.enum for o in cls.operands if o.enum is not None}
    typed: dict[str, Any] = {
        n: enums[n](v) if n in enums and v in list(enums[n]) else v for n, v in values.items()
    }
    instr = cls(waits=slots["waits"], signals=slots["signals"], **typed)
    for fault in operand_faults(instr):
        raise _Mistake(fault.message, places.get(fault.operand, tree))
    return instr


def _semaphore(state: Assembly, node: Node | Token) -> int:
    assert isinstance(node, Tree)
    if node.data == "symbol" and str(node.children[0]) in state.semaphores:
        return state.semaphores[str(node.children[0])]
    return _evaluate(state, node)


def _item(
    state: Assembly, cls: type[Instruction], item: Node, positional: list[Shorthand]
) -> Iterator[tuple[str, int]]:
    """The operands that one item gives."""
    if item.data == "positional":
        value = cast("Node", item.children[0])
        form, arity = _form(value)
        for index, short in enumerate(positional):
            if _fits(short, form, arity):
                del positional[index]
                yield from _expand(state, cls, short, value)
                return
        raise _Mistake(
            "nothing of this form stands here without a name", item, allowed=", ".join(_allowed(cls))
        )
    name, value = cast("Token", item.children[0]), cast("Node", item.children[1])
    if name in operands_by_name(cls):
        yield str(name), _operand_value(state, cls, str(name), value)
        return
    for short in shorthands(cls):
        if short.name == name and _fits(short, *_form(value)):
            yield from _expand(state, cls, short, value)
            return
    raise _Mistake(
        f"'{cls.mnemonic}' has no operand '{name}'",
        name,
        allowed=", ".join(_allowed(cls)),
        remedy=did_you_mean(name, operands_by_name(cls)),
    )


def _allowed(cls: type[Instruction]) -> list[str]:
    return [*cls.shorthands, *operands_by_name(cls)]


def _form(value: Node) -> tuple[str, int]:
    if value.data in ("extents", "arrow", "move"):
        return str(value.data), len(_parts(value))
    return "scalar", 1


def _fits(short: Shorthand, form: str, arity: int) -> bool:
    if short.form == "address":
        return form == "scalar"
    return short.form == form and len(short.operands) == arity


def _parts(value: Node) -> list[Node]:
    return [c for c in value.children if isinstance(c, Tree)]


def _expand(
    state: Assembly, cls: type[Instruction], short: Shorthand, value: Node
) -> Iterator[tuple[str, int]]:
    if short.form == "address":
        region, offset = divmod(_evaluate(state, value), 1 << REGION_SHIFT)
        yield from zip(short.operands, (region, offset), strict=True)
        return
    parts = [value] if short.form == "scalar" else _parts(value)
    for name, part in zip(short.operands, parts, strict=True):
        yield name, _operand_value(state, cls, name, part)


def _operand_value(state: Assembly, cls: type[Instruction], name: str, value: Node) -> int:
    if value.data in ("extents", "arrow", "move"):
        raise _Mistake(f"'{name}' takes one value", value)
    spec = operands_by_name(cls)[name]
    if spec.enum is not None and value.data == "symbol":
        word = cast("Token", value.children[0])
        names = {m.name.lower(): m.value for m in spec.members()}
        if word in names:
            return names[str(word)]
        if word not in state.symbols:
            raise _Mistake(
                f"'{word}' is no value of {name}",
                word,
                allowed=", ".join(names),
                remedy=did_you_mean(word, names),
            )
    return _evaluate(state, value)


# --- directives ----------------------------------------------------------------------------------


def _tokens(tree: Node) -> list[Token]:
    return [c for c in tree.children if isinstance(c, Token)]


def _strings(tree: Node) -> list[str]:
    return [str(t)[1:-1] for t in _tokens(tree) if t.type == "STRING"]


def _isa(state: Assembly, tree: Node) -> None:
    name, version = _tokens(tree)
    if (name, version) != ("x1", ISA_VERSION):
        raise _Mistake(f"the text is for {name} {version}", tree, allowed=f"x1 {ISA_VERSION}")
    del state


def _target(state: Assembly, tree: Node) -> None:
    state.target = load_target(str(tree.children[0]), _strings(tree))


def _core(state: Assembly, tree: Node) -> None:
    if _evaluate(state, tree.children[0]) != 0:
        raise _Mistake("there is one core", tree, allowed="0")


def _equ(state: Assembly, tree: Node) -> None:
    _define(state, cast("Token", tree.children[0]), _evaluate(state, tree.children[1]))


def _buf(state: Assembly, tree: Node) -> None:
    name, space = cast("Token", tree.children[0]), cast("Token", tree.children[1])
    spaces = [s.name.lower() for s in (Space.SPM, Space.ACC, Space.PRM)]
    if space not in spaces:
        raise _Mistake(f"'{space}' is no memory on the chip", space, allowed=", ".join(spaces))
    value, size = (_evaluate(state, c) for c in tree.children[2:])
    _define(state, name, value)
    if space == "spm":
        state.listed.append(Symbol(str(name), "", value, size))


def _sems(state: Assembly, tree: Node) -> None:
    engines = [e.name for e in Engine]
    for sem in cast("list[Node]", tree.children):
        name, *ends = _tokens(sem)
        for end in ends:
            if end not in engines:
                raise _Mistake(f"'{end}' is no engine", end, allowed=", ".join(engines))
        if name in state.semaphores:
            raise _Mistake(f"the semaphore '{name}' is declared twice", name)
        state.semaphores[str(name)] = len(state.semaphores)


def _region(state: Assembly, tree: Node) -> None:
    number, size = (_evaluate(state, c) for c in tree.children)
    if number not in _SIZED_REGIONS:
        raise _Mistake(
            f"the size of region {number} is not declared", tree, allowed="1 (arena), 2 (input), 3 (output)"
        )
    if not 0 <= size <= MAX_DATA:
        raise _Mistake(f"the size {size} is outside 0..{MAX_DATA}", tree)
    state.sizes[number] = size


def _op(state: Assembly, tree: Node) -> None:
    number = _evaluate(state, tree.children[0])
    names = tuple(_strings(tree))
    if number not in state.ops:
        state.ops[number] = OpRow(number, names[0] if names else f"op{number}", names, (), (), ())
    state.current_op = number


def _section(state: Assembly, tree: Node) -> None:
    state.section = str(tree.children[0])


def _data(state: Assembly, at: Node | Token) -> bytearray:
    if state.section not in _DATA_REGION:
        raise _Mistake(f"data belongs into .weights or .params, not {state.section}", at)
    return state.sections.setdefault(state.section, bytearray())


def _incbin(state: Assembly, tree: Node) -> None:
    name = _strings(tree)[0]
    path = state.folder / name
    inside = state.folder.resolve()
    if not path.resolve().is_relative_to(inside):
        raise _Mistake(f"'{name}' lies outside the folder of the text", tree)
    if not path.is_file():
        raise _Mistake(f"there is no file '{name}'", tree)
    if path.stat().st_size > MAX_DATA:
        raise _Mistake(f"'{name}' is too large", tree, allowed=f"at most {MAX_DATA} bytes")
    content = path.read_bytes()
    if state.section in _DATA_REGION:
        _data(state, tree).extend(content)
    elif state.section == _TEXT_SECTION:
        raise _Mistake(
            "'.incbin' in .text is not allowed",
            tree,
            remedy="write instructions, or name a section with .section",
        )
    else:
        state.raw[state.section] = content


def _align(state: Assembly, tree: Node) -> None:
    unit = _evaluate(state, tree.children[0])
    if not 1 <= unit <= 4096:
        raise _Mistake(f"the alignment {unit} is outside 1..4096", tree)
    data = _data(state, tree)
    data.extend(bytes(-len(data) % unit))


def _byte(state: Assembly, tree: Node) -> None:
    for child in tree.children:
        value = _evaluate(state, child)
        if not -128 <= value <= 255:
            raise _Mistake(f"{value} is no byte", cast("Node", child), allowed="-128..255")
        _data(state, tree).append(value & 0xFF)


def _int(state: Assembly, tree: Node) -> None:
    for child in tree.children:
        _data(state, tree).extend(_int32(state, child))


def _int32(state: Assembly, node: Node | Token) -> bytes:
    value = _evaluate(state, node)
    if not -(1 << 31) <= value < 1 << 31:
        raise _Mistake(f"{value} is no int32", node)
    return struct.pack("<i", value)


def _float(state: Assembly, node: Node | Token) -> float:
    assert isinstance(node, Tree)
    *sign, token = _tokens(node)
    text = str(token)
    if token.type == "NAME":
        if text not in _FLOAT_WORDS:
            raise _Mistake(f"'{text}' is no number", token, allowed="a decimal or hexadecimal float")
        value = _FLOAT_WORDS[text]
    else:
        value = float.fromhex(text) if text.startswith("0x") else float(text)
    del state
    return -value if sign else value


def _float_data(state: Assembly, tree: Node) -> None:
    for child in tree.children:
        _data(state, tree).extend(np.float32(_float(state, child)).tobytes())


def _record(state: Assembly, tree: Node) -> None:
    bias, scale = tree.children
    _data(state, tree).extend(_int32(state, bias) + np.float32(_float(state, scale)).tobytes())


def _tensor(state: Assembly, tree: Node) -> None:
    direction, name, dtype = _tokens(tree)[:3]
    rest = [c for c in tree.children if isinstance(c, Tree)]
    if direction not in ("in", "out"):
        raise _Mistake(f"'{direction}' is no direction", direction, allowed="in, out")
    shape = tuple(_evaluate(state, c) for c in rest[0].children)
    region, offset = divmod(_evaluate(state, rest[1]), 1 << REGION_SHIFT)
    options = _options(state, rest[2:])
    perm = options.get("perm", tuple(range(len(shape))))
    scale, zero = options.get("scale"), options.get("zp", 0.0)
    if not isinstance(perm, tuple) or sorted(perm) != list(range(len(shape))):
        raise _Mistake("perm is no permutation of the dimensions", tree)
    if isinstance(scale, tuple) or isinstance(zero, tuple) or not shape or min(shape) < 1:
        raise _Mistake("the tensor has no such shape, scale or zero point", tree)
    permuted = [shape[p] for p in perm]
    device = tuple([1] * (4 - len(permuted)) + permuted)
    if len(device) != 4:
        raise _Mistake(f"the tensor has {len(shape)} dimensions", tree, allowed="at most 4")
    device_dtype = "int8" if scale is not None else str(dtype)
    element = 4 if device_dtype == "int32" else 1
    if dtype == "float32" and scale is None:
        raise _Mistake("a float32 tensor needs scale= and zp=", tree)
    plain = str(name)[1:-1] if name.type == "STRING" else str(name)
    state.tensors.append(
        (
            str(direction),
            Interface(
                plain,
                str(dtype),
                shape,
                device_dtype,
                device,
                perm,
                device[3] * element,
                None if scale is None else float_bits(scale),
                int(zero),
                region,
                offset,
                volume(device) * element,
            ),
        )
    )


def _options(state: Assembly, nodes: list[Node]) -> dict[str, float | tuple[int, ...]]:
    found: dict[str, float | tuple[int, ...]] = {}
    for node in nodes:
        name, value = cast("Token", node.children[0]), cast("Node", node.children[1])
        if name not in ("perm", "scale", "zp"):
            raise _Mistake(f"a tensor has no option '{name}'", name, allowed="perm, scale, zp")
        if value.data == "shape":
            found[str(name)] = tuple(_evaluate(state, c) for c in value.children)
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
    "section": _section,
    "incbin": _incbin,
    "align": _align,
    "byte": _byte,
    "int": _int,
    "float_data": _float_data,
    "record": _record,
    "tensor": _tensor,
}


# --- the end of the file -------------------------------------------------------------------------


def _finish(state: Assembly) -> Program | None:
    target = state.target or load_target("edge32")
    instrs = _built(state)
    if state.diagnostics:
        return None
    sizes = {r: state.sizes.get(r, _needed(state, r)) for r in _SIZED_REGIONS}
    program = Program(
        target,
        tuple(instrs),
        bytes(state.sections.get(".weights", b"")),
        bytes(state.sections.get(".params", b"")),
        sizes[1],
        sizes[2],
        sizes[3],
        Abi(
            tuple(t for d, t in state.tensors if d == "in"), tuple(t for d, t in state.tensors if d == "out")
        ),
        DebugMap(tuple(_map_rows(state))),
        Operators(tuple(state.ops[n] for n in sorted(state.ops))),
        tuple(sorted(state.listed, key=lambda s: (s.section, s.value, s.name))),
        Note("x1 asm"),
    )
    if not state.raw:  # a text that takes its sections from files is validated with them
        _validate(state, program)
    return program


def _built(state: Assembly) -> list[Instruction]:
    """The instructions of all lines, their symbols resolved; mistakes are noted."""
    instrs: list[Instruction] = []
    for pending in state.pending:
        try:
            instrs.append(_build(state, pending.tree))
        except _Mistake as mistake:
            state.diagnostics.append(_place(state, pending.line, mistake))
    return instrs


def _needed(state: Assembly, region: int) -> int:
    """Bytes that the declared tensors of a region need."""
    return max((t.offset + t.bytes for _, t in state.tensors if t.region == region), default=0)


def _validate(state: Assembly, program: Program) -> None:
    regions = program.regions()
    for pending, instr in zip(state.pending, program.instructions, strict=True):
        for fault in instruction_faults(instr, program.target, regions):
            mistake = _Mistake(f"{fault.trap.name}: {fault.message}", pending.tree)
            state.diagnostics.append(_place(state, pending.line, mistake))


def _map_rows(state: Assembly) -> Iterator[MapRow]:
    first = 0
    ops = [p.op for p in state.pending]
    while first < len(ops):
        last = first
        while last < len(ops) and ops[last] == ops[first]:
            last += 1
        op = ops[first]
        if op is not None:
            yield MapRow(first, last - first, 0, op, (), "compute")
        first = last
