"""Coverage-guided fuzzing of the loader or the assembler, with atheris.

    python tests/fuzz/harness.py loader -runs=20000 CORPUS
    python tests/fuzz/harness.py assembler -runs=20000 CORPUS

Anything but one of our own errors ends the run with the input that caused it. The first byte of an input
for the loader says what the rest is: a whole file (0), or the contents of a section, whose checksums are
then made right: else few inputs would come further than the checksums.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris  # pyright: ignore[reportMissingImports]

fuzzer: Any = atheris
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
with fuzzer.instrument_imports(include=["isa"]):
    from isa.assembly import reader
    from isa.assembly.assembler import assemble
    from isa.checker import check
    from isa.container import assemble_sections, executable_sections, load, save
    from isa.program import DebugMap, MapRow, Operators, OpRow, Program, TensorRow, float_bits
    from isa.support.diagnostics import X1Error
    from isa.support.records import replace

SAMPLE = (
    ".target tiny8\n.sem go LD -> ST\n.tensor in x int8 [1, 8] R2\n.tensor out y int8 [1, 8] R3\n"
    ".section .weights\nwide: .byte 1, -2, 3\n.section .text\nld spm 0, R2, n=8 signal(go)\nst spm 0, R3, n=8 wait(go)\nhalt\n"
)
MEMORY = 4 << 30
"""Bytes of address space: libFuzzer's own limit counts what the process that started this one once had."""
LINES = 2000
"""Repetitions may expand to this many lines here, so that no input takes seconds."""


def loader(data: bytes) -> None:
    """Load a file, or the sample with one section replaced; check what is sound."""
    if not data:
        return
    try:
        if data[0]:
            sections = executable_sections(PROGRAM)
            number = data[0] % len(sections)
            changed = replace(sections[number], data=data[1:])
            program = load(
                assemble_sections([*sections[:number], changed, *sections[number + 1 :]], PROGRAM.note)
            )
        else:
            program = load(data[1:])
        check(program)
    except X1Error:
        pass


def assembler(data: bytes) -> None:
    """Assemble a text, and check what is sound."""
    with contextlib.suppress(X1Error):
        check(assemble(data.decode("utf-8", "replace"), "fuzz.x1s", FOLDER).program)


def corpus() -> list[bytes]:
    """Inputs to begin with."""
    samples = Path(__file__).resolve().parents[2] / "samples" / "asm"
    whole = b"\0" + save(PROGRAM)
    load(save(PROGRAM))
    sections = [bytes([i]) + s.data for i, s in enumerate(executable_sections(PROGRAM)) if i]
    lines = (samples / "edges.x1s").read_bytes().splitlines(keepends=True)
    texts = [b"".join(lines[i : i + 12]) for i in range(0, len(lines), 12)]
    return [whole, *sections] if TARGET is loader else [SAMPLE.encode(), *texts]


def with_debug_map(program: Program) -> Program:
    """The sample with rows as the compiler writes them: a tensor that is stored, and one that is its alias."""
    last = len(program.instructions) - 2
    (write,) = (a for a in program.instructions[last].accesses(program.target) if a.write)
    rows = (
        MapRow(0, last, 0, 0, (0, 0), "load"),
        MapRow(last, 1, 0, 0, (), "store", 0, ((0, 1), (0, 1), (0, 1), (0, 8)), write.operand),
    )
    tensors = (
        TensorRow(0, "", "int8", (1, 1, 1, 8), (), float_bits(0.5), 3),
        TensorRow(1, "y", "int8", (1, 8), (((1, 8), (0, 1)),), float_bits(0.5), 3, 0),
    )
    op = OpRow(0, "layer", ("node",), ("Identity",), ("y",), ("node",))
    return replace(program, debug=DebugMap(rows), operators=Operators((op,), tensors))


TARGETS: dict[str, Callable[[bytes], None]] = {"loader": loader, "assembler": assembler}
TARGET = TARGETS[sys.argv.pop(1)]
FOLDER = Path(tempfile.mkdtemp())
PROGRAM = with_debug_map(assemble(SAMPLE).program)

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    reader.MAX_REPEATED = LINES  # pyright: ignore[reportAttributeAccessIssue]
    for index, content in enumerate(corpus()):
        (Path(sys.argv[-1]) / f"seed{index}").write_bytes(content)
    fuzzer.Setup(sys.argv, TARGET)
    fuzzer.Fuzz()
