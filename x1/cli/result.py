"""From what a command did to what a person or a program sees: text, JSON, exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Final, ParamSpec

import click

from isa.support.diagnostics import MAX_SHOWN, Diagnostic, ExitCode, X1Error
from isa.support.records import Frozen, field

P = ParamSpec("P")
SCHEMA_VERSION: Final = 1
UNWRITABLE: Final = (errno.ENOSPC, errno.EIO, errno.EFBIG)


class Result(Frozen):
    """What a command did: the body of its JSON, its exit code, and the text that was asked for."""

    body: Mapping[str, object] = field(default_factory=dict[str, object])
    exit_code: ExitCode = ExitCode.OK
    text: str = ""
    diagnostics: Sequence[Diagnostic] = ()


class Failed(Exception):
    """A command ended with an exit code other than 0; everything has been printed."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(str(exit_code))
        self.exit_code = exit_code


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def reported(name: str) -> Callable[[Callable[P, Result]], Callable[P, None]]:
    """Let a command return an `Result`; print it, and mistakes of the user, as text or JSON."""

    def wrap(command: Callable[P, Result]) -> Callable[P, None]:
        @wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            as_json = bool(kwargs.get("as_json"))
            try:
                outcome = command(*args, **kwargs)
            except X1Error as error:
                body: dict[str, object] = {}
                if record := getattr(error, "record", None):
                    body["trap"] = record.as_json()
                outcome = Result(body, error.exit_code, "", error.diagnostics)
            _print(name, outcome, as_json=as_json)
            if outcome.exit_code:
                raise Failed(outcome.exit_code)

        return run

    return wrap


def say(text: str) -> None:
    """A line for the person, on stderr."""
    click.echo(text, err=True)


def run_command(group: click.Command, arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    try:
        group.main(arguments, prog_name="x1", standalone_mode=False)
    except Failed as failed:
        return failed.exit_code
    except click.ClickException as error:
        return _usage(error, arguments)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        return ExitCode.INTERRUPTED
    except click.exceptions.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        _give_up_stdout()
        return ExitCode.OK
    except OSError as error:
        if error.errno not in UNWRITABLE:
            return _internal(error, arguments)
        _give_up_stdout()
        say(f"error: cannot write to stdout: {error.strerror}")
        return ExitCode.USAGE
    except MemoryError:
        return _out_of_memory(arguments)
    except Exception as error:  # noqa: BLE001  (the last resort: no traceback reaches a person)
        return _internal(error, arguments)
    return ExitCode.OK


def _print(name: str, outcome: Result, *, as_json: bool) -> None:
    """Show an outcome; everything is flushed, so that a full disk is found here and not at exit."""
    _show(name, outcome, as_json=as_json)
    sys.stdout.flush()


def _give_up_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not fail on it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show(name: str, outcome: Result, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(envelope(name, outcome), indent=1))
        return
    for diagnostic in outcome.diagnostics[:MAX_SHOWN]:
        say(diagnostic.render())
    if len(outcome.diagnostics) > MAX_SHOWN:
        say(f"... and {len(outcome.diagnostics) - MAX_SHOWN} more")
    if outcome.text:
        click.echo(outcome.text, nl=not outcome.text.endswith("\n"))


def envelope(name: str, outcome: Result) -> dict[str, object]:
    """The object that every `--json` prints."""
    return {
        "schema": f"x1.{name}/{SCHEMA_VERSION}",
        "ok": outcome.exit_code == 0,
        "exit_code": int(outcome.exit_code),
        "diagnostics": [d.as_json() for d in outcome.diagnostics],
        **outcome.body,
    }


def _end(arguments: list[str], exit_code: ExitCode, diagnostic: Diagnostic) -> int:
    """Report what ended the run outside a command; which one was meant is read from the arguments."""
    command = next((a for a in arguments if not a.startswith("-")), "x1")
    _print(command, Result({}, exit_code, "", [diagnostic]), as_json="--json" in arguments)
    return exit_code


def _usage(error: click.ClickException, arguments: list[str]) -> int:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    remedy = f"{context.command_path} --help" if context is not None else "x1 --help"
    diagnostic = Diagnostic("usage.option", message[:1].lower() + message[1:].rstrip("."), remedy=remedy)
    return _end(arguments, ExitCode.USAGE, diagnostic)


def _out_of_memory(arguments: list[str]) -> int:
    diagnostic = Diagnostic(
        "fit.host", "the host has too little memory for this", remedy="use a machine with more memory"
    )
    return _end(arguments, ExitCode.DOES_NOT_FIT, diagnostic)


def _internal(error: Exception, arguments: list[str]) -> int:
    """A mistake of ours: the traceback goes to a file, its name to the person."""
    handle, name = tempfile.mkstemp(prefix="x1-error-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"x1 {' '.join(arguments)}\n\n")
        file.write("".join(traceback.format_exception(error)))
    diagnostic = Diagnostic(
        "internal",
        f"internal error: {type(error).__name__}: {error}",
        remedy=f"please report it with the file {Path(name)}",
    )
    return _end(arguments, ExitCode.INTERNAL, diagnostic)
