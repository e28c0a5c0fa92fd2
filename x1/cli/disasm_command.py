"""`x1 disasm`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from isa.assembly.disassembler import disassemble
from x1.api import Binary
from x1.cli.result import Result, json_option, reported, say
from x1.files import make_folder, require_another, require_unchanged, write_atomic

EPILOG: Final = """\b
Examples:
  x1 disasm net.x1
  x1 disasm net.x1 -d parts
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
@json_option
@reported("disasm")
def command(binary: str, directory: str | None, force: bool, as_json: bool) -> Result:
    """Show BINARY as assembly text."""
    program = Binary.load(binary).program
    if directory is None:
        text = disassemble(program).text
        return Result({"text": text}, text=text)
    parts = disassemble(program, with_sections=True)
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
        say(f"{place}: {len(program.instructions)} instructions, {len(parts.files)} sections beside it")
    return Result({"output": str(place), "files": sorted(parts.files)})
