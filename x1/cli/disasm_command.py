"""`x1 disasm`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from isa.assembly.disassembler import disassemble
from isa.support.diagnostics import Diagnostic, UsageError
from x1.api import Binary
from x1.cli.options import stream_option
from x1.cli.result import Result, json_option, reported, say
from x1.files import make_folder, require_another, require_unchanged, write_atomic

EPILOG: Final = """\b
Examples:
  x1 disasm net.x1
  x1 disasm net.x1 -d parts
  x1 disasm trained.x1 --stream train
"""


@click.command(epilog=EPILOG)
@click.argument("binary")
@click.option(
    "-d",
    "--directory",
    metavar="DIR",
    help="Write the text and the other sections as files, from which `x1 asm` gives the whole binary back.",
)
@click.option("--force", is_flag=True, help="Overwrite files in DIR that hold something else.")
@stream_option
@json_option
@reported("disasm")
def command(binary: str, directory: str | None, force: bool, stream: str | None, as_json: bool) -> Result:
    """Show BINARY as assembly text."""
    loaded = Binary.load(binary)
    if directory is None:
        text = disassemble(loaded.executable if stream is None else loaded.stream(stream)).text
        return Result({"text": text}, text=text)
    if stream is not None:
        raise UsageError(
            Diagnostic("usage.stream", "-d writes all streams", remedy="leave --stream or -d out")
        )
    executable = loaded.executable
    parts = disassemble(executable, with_sections=True)
    folder = Path(directory)
    place = folder / f"{Path(binary).stem}.x1s"
    files = {**{folder / name: content for name, content in parts.files.items()}, place: parts.text.encode()}
    for path in files:
        require_another(path, binary)
    if not force:
        require_unchanged(files)
    make_folder(folder)
    for path, content in files.items():
        write_atomic(path, content)
    if not as_json:
        count = executable.instruction_count
        say(f"{place}: {count} instructions, {len(parts.files)} sections beside it")
    return Result({"output": str(place), "files": sorted(parts.files)})
