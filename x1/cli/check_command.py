"""`x1 check`."""

from __future__ import annotations

from typing import Final

import click

from isa.checker import Violation
from isa.support.diagnostics import ExitCode
from isa.support.records import asdict
from x1 import api
from x1.cli.options import stream_option
from x1.cli.result import Result, json_option, reported

EPILOG: Final = """\b
Examples:
  x1 check net.x1
  x1 check net.x1 --json
  x1 check trained.x1 --stream train
"""


@click.command(epilog=EPILOG)
@click.argument("binary")
@stream_option
@json_option
@reported("check")
def command(binary: str, stream: str | None, as_json: bool) -> Result:
    """Prove BINARY free of races, deadlocks, wrong addresses and undefined reads, from its words alone."""
    del as_json
    report = api.check(binary, stream=stream)
    body = {
        "instructions": report.instructions,
        "tokens": report.tokens,
        "violations": [asdict(v) for v in report.violations],
    }
    lines = [
        f"{_place(v)}: {v.rule}: {v.message}" + (f" ({' + '.join(v.nodes)})" if v.nodes else "")
        for v in report.violations
    ]
    verdict = (
        f"{len(lines)} violations" if lines else "no race, no deadlock, no access out of bounds or undefined"
    )
    lines.append(f"{binary}: {report.instructions} instructions, {report.tokens} tokens: {verdict}")
    return Result(body, ExitCode.MISMATCH if report.violations else ExitCode.OK, "\n".join(lines))


def _place(violation: Violation) -> str:
    """Where a violation is."""
    device = f"device {violation.device} " if violation.device else ""
    return f"{device}instruction {violation.pc}"
