"""Parsing with Lark: grammars from package data, and syntax errors as places with a caret."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Final, cast

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

Parsed = Tree[Token]

TERMINALS: Final = {
    "NAME": "a name", "STRING": 'a "text"', "INT": "a number", "SIGNED_INT": "a number",
    "SIGNED_FLOAT": "a number", "_NL": "a new line", "$END": "the end", "LPAR": "'('", "RPAR": "')'",
    "LSQB": "'['", "RSQB": "']'", "LBRACE": "'{'", "RBRACE": "'}'", "COMMA": "','", "EQUAL": "'='",
    "COLON": "':'", "MINUS": "'-'", "PLUS": "'+'", "STAR": "'*'", "VALUE": "%number",
}  # fmt: skip


class SyntaxProblem(Exception):
    """Where a text stops following its grammar; lines and columns count from 1."""

    def __init__(self, message: str, line: int, column: int, width: int, expected: str) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column
        self.width, self.expected = width, expected


@cache
def grammar(package: str, name: str) -> Lark:
    """The parser of a grammar file of a package."""
    return Lark(
        grammar_text(package, name), parser="lalr", propagate_positions=True, maybe_placeholders=False
    )


def grammar_text(package: str, name: str) -> str:
    """A grammar file of a package."""
    return (resources.files(package) / "grammars" / f"{name}.lark").read_text(encoding="utf-8")


def parse(parser: Lark, text: str) -> Parsed:
    """The syntax tree of a text.

    Raises:
        SyntaxProblem: the text does not follow the grammar.
    """
    try:
        return cast("Parsed", cast("Any", parser).parse(text))
    except UnexpectedInput as error:
        raise _problem(error, lines_of(text)) from None
    except RecursionError:
        raise SyntaxProblem("the text is nested too deeply", 1, 1, 1, "") from None


def _problem(error: UnexpectedInput, lines: list[str]) -> SyntaxProblem:
    found = cast("Any", error)
    line, column = max(error.line, 1), max(error.column, 1)
    if isinstance(error, UnexpectedCharacters):
        character = lines[line - 1][column - 1 : column] if line <= len(lines) else ""
        return SyntaxProblem(
            f"unexpected character '{character}'", line, column, 1, _readable(found.allowed or ())
        )
    assert isinstance(error, UnexpectedToken)
    token = str(found.token)
    expected = _readable(found.accepts or found.expected)
    if found.token.type not in ("$END", "_NL"):
        return SyntaxProblem(
            f"unexpected '{token.strip()}'", line, column, max(len(token.strip()), 1), expected
        )
    what = "the text ends too early" if found.token.type == "$END" else "the line ends too early"
    line = min(line, max(len(lines), 1))
    end = len(lines[line - 1].rstrip()) + 1 if lines else 1
    return SyntaxProblem(what, line, end, 1, expected)


def _readable(terminals: Any) -> str:
    return ", ".join(sorted({TERMINALS.get(str(t), str(t).lower()) for t in terminals}))


def lines_of(text: str) -> list[str]:
    """The lines of a text as its parser counts them: they end with a line feed and nothing else."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def trees(parent: Parsed, kind: str) -> list[Parsed]:
    """The children of a node that are of one kind."""
    return [c for c in parent.children if isinstance(c, Tree) and c.data == kind]
