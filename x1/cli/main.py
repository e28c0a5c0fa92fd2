"""The `x1` command: lazy subcommands, exit codes, and what a person sees when something fails."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

import click

from x1.version import __version__

COMMANDS: Final = {
    "compile": "compile a network to a binary",
    "quantize": "quantize a network and write it as ONNX",
    "run": "run a binary on inputs",
    "eval": "top-1 of float network, quantized network and binary",
    "train": "train a network on the simulated device",
    "verify": "compare every tensor of the binary with ONNX Runtime",
    "profile": "count the cycles of a binary, and where they go",
    "check": "prove a binary free of races and deadlocks",
    "inspect": "show a network, an IR dump or a binary",
    "asm": "assemble a program",
    "disasm": "show a binary as assembly text",
    "targets": "list the machines that ship with x1",
    "demo": "compile, run and verify the sample network on digits",
}
GARBAGE: Final = 1_000_000
"""Objects made before the collector of cycles looks at them: graphs and programs live to the end of a
command, so that looking often is time lost."""
IDLE: Final = "16"
"""Cycles, as a power of 2, that a thread of numpy's linear algebra waits busily for work: as it comes, every
core but one burns a tenth of a second while a command starts."""
EPILOG: Final = """\b
Examples:
  x1 demo
  x1 compile net.onnx --calibrate samples.npz -o net.x1
  x1 run net.x1 --input @digit.npy
  x1 verify net.onnx --calibrate samples.npz --input @samples.npz
"""


class LazyGroup(click.Group):
    """Imports a subcommand's module when it is called, so that `x1 --version` starts quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands in the order in which a person meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"x1.cli.{cmd_name}_command").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of subcommands, none of them imported."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self,
        ctx: click.Context,
        args: list[str],
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a suggestion for a misspelt command."""
        from isa.support.diagnostics import did_you_mean  # noqa: PLC0415

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(f"there is no command '{args[0]}'" + (f"; {hint}" if hint else ""), ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value:
        return
    from isa.versions import CONTAINER_VERSION, ISA_VERSION  # noqa: PLC0415

    click.echo(f"x1 {__version__} (ISA {ISA_VERSION}, container {CONTAINER_VERSION})")
    ctx.exit()


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the versions of tool, ISA and container.",
)
def main() -> None:
    """X1: networks in, programs for a virtual ASIC out, exact to the bit."""


def _open_streams() -> None:
    """Where a stream was closed before the command began, what goes there goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (open to the end)
            setattr(sys, name, nowhere)


def run(arguments: list[str]) -> None:
    """The command line as a process: it ends with the exit code."""
    from x1.cli.result import run_command  # noqa: PLC0415

    _open_streams()
    gc.set_threshold(GARBAGE)
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", IDLE)
    code = run_command(main, arguments)
    if sys.gettrace() is not None or sys.getprofile() is not None:
        sys.exit(code)  # whoever watches wants to see the end
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is gained by taking graphs and programs apart, object by object
