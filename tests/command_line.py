"""The command line, called as a person calls it: in this process, which is quick, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

from x1.cli.main import main
from x1.cli.result import run_command

Done = subprocess.CompletedProcess[str]


def x1(arguments: Sequence[str], folder: Path, **environment: str) -> Done:
    """Run `x1` in this process: the same streams, exit code and files as in one of its own."""
    out, err = _stream(), _stream()
    with _at(folder, environment), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command(main, list(arguments))
    return Done(["x1", *arguments], code, _text(out), _text(err))


def x1_process(arguments: Sequence[str], folder: Path, **environment: str) -> Done:
    """Run `x1` in a process of its own."""
    return subprocess.run([sys.executable, "-m", "x1", *arguments], cwd=folder, env={**os.environ, **environment},
                          capture_output=True, text=True, check=False)  # fmt: skip


def _stream() -> io.TextIOWrapper:
    """A stream that takes what the real ones take, as `x1.cli.main` opens them."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="")


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()


@contextlib.contextmanager
def _at(folder: Path, environment: dict[str, str]) -> Generator[None]:
    """In a folder, with other variables; both are set back."""
    before, variables = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(variables)
