"""The errors of the compiler: models that are wrong, and models that do not fit."""

from isa.support.diagnostics import Diagnostic, ExitCode, X1Error


class CompileError(X1Error):
    """A model, DSL text or IR dump that is invalid or not supported (exit code 3)."""

    exit_code = ExitCode.INVALID_MODEL


class FitError(X1Error):
    """A model that does not fit the target (exit code 4)."""

    exit_code = ExitCode.DOES_NOT_FIT


class Unsupported(Exception):
    """Why one node or layer is refused; collected, and reported with all others."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic
