"""`x1 asm`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import click

from isa.assembly.assembler import assemble
from isa.assembly.disassembler import binary_of
from isa.container import load_executable
from isa.support.diagnostics import AssemblyError, BinaryError, Diagnostic
from isa.support.locations import FileLoc
from isa.support.paths import read_file
from isa.support.records import replace
from x1.cli.result import Result, json_option, reported, say
from x1.files import require_another, write_atomic

EPILOG: Final = """\b
Examples:
  x1 asm program.x1s -o program.x1
  x1 disasm net.x1 -d parts && x1 asm parts/net.x1s -o same.x1
"""


@click.command(epilog=EPILOG)
@click.argument("source")
@click.option("-o", "--output", required=True, metavar="OUT.x1", help="The file to write.")
@json_option
@reported("asm")
def command(source: str, output: str, as_json: bool) -> Result:
    """Assemble SOURCE to a binary."""
    require_another(output, source)
    try:
        text = read_file(source).decode("utf-8")
    except UnicodeDecodeError:
        raise AssemblyError(
            Diagnostic("asm.encoding", "the file is not UTF-8 text", FileLoc(source))
        ) from None
    assembled = assemble(text, source, Path(source).parent)
    require_another(output, *assembled.files)
    content = binary_of(assembled, source)
    try:
        executable = load_executable(content, source)
    except BinaryError as error:  # what the text declares does not go together
        raise AssemblyError([replace(d, remedy="") for d in error.diagnostics]) from None
    write_atomic(output, content)
    digest = hashlib.sha256(content).hexdigest()
    count, target = executable.instruction_count, executable.main.target.name
    if not as_json:
        say(f"{output}: {count} instructions for {target}, {len(content):,} bytes")
    return Result({"output": output, "sha256": digest, "instructions": count})
