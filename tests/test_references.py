"""Every reference leads somewhere: links and paths in pages, files and folders named in code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w./@-])((?:isa|compiler|runtime|x1|tests|benchmarks|docs|samples)(?:/[\w.*-]+)+/?)")
PAGE = re.compile(r"(?<![\w./-])([\w-]+(?:/[\w-]+)*\.md)\b")
MODULE = re.compile(r"`((?:isa|compiler|runtime|x1|tests|benchmarks)(?:\.\w+)+)`")
SECTION = re.compile(r"\bsection \d+|\bchapter \d+|§")
EXAMPLES = {"compiler/ops/flip.py", "compiler/passes/merge_clamps.py", "isa/targets/edge24.toml",
            "tests/golden/passes/cases/merge-clamps.txt"}  # fmt: skip
"""What the pages on adding things tell the reader to write."""


def texts(repository: Path) -> dict[str, str]:
    """Pages and code, by path."""
    files = [*repository.glob("*.md"), *(repository / "docs").rglob("*.md")]
    for package in ("isa", "compiler", "runtime", "x1", "benchmarks", "tests"):
        files += [*(repository / package).rglob("*.py"), *(repository / package).rglob("*.md")]
    return {
        str(f.relative_to(repository)): f.read_text(encoding="utf-8")
        for f in files
        if "__pycache__" not in f.parts and f.name != Path(__file__).name
    }


def anchors(page: str) -> set[str]:
    """The anchors that headings give, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


def lost(repository: Path, path: str, text: str) -> Iterator[str]:
    """References of a file that lead nowhere."""
    if path.endswith(".md") and not path.startswith(("isa/", "tests/")):
        yield from lost_links(repository, path, text)
    if not path.startswith("tests/"):  # tests speak of files that they make
        yield from lost_files(repository, path, text)
    for name in MODULE.findall(text):
        if not is_module(repository, name):
            yield f"{path}: module {name}"


def lost_links(repository: Path, path: str, text: str) -> Iterator[str]:
    """Links of a page to files and headings."""
    for target in LINK.findall(text):
        place, _, anchor = target.partition("#")
        if "://" in place:
            continue
        file = (repository / path).parent / place if place else repository / path
        if not file.exists():
            yield f"{path}: link {target}"
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield f"{path}: anchor {target}"


def lost_files(repository: Path, path: str, text: str) -> Iterator[str]:
    """Paths of files and folders, pages, and sections by number."""
    here = (repository / path).parent
    for name in (n.rstrip(".") for n in PATH.findall(text)):
        known = (
            any(repository.glob(name))
            if "*" in name
            else (here / name).exists() or (repository / name).exists()
        )
        if not known and name not in EXAMPLES and not is_attribute(repository, name):
            yield f"{path}: path {name}"
    folders = (here, repository, repository / "docs", repository / "docs" / "isa")
    for name in PAGE.findall(text):
        if not any((folder / name).exists() for folder in folders):
            yield f"{path}: page {name}"
    for words in SECTION.findall(text):
        yield f"{path}: {words!r} of what has no numbers"


def is_attribute(repository: Path, name: str) -> bool:
    """Whether a path without its suffix is a module or a folder, as in `compiler/passes/base`."""
    return any((repository / f"{name}{suffix}").exists() for suffix in (".py", ".md"))


def is_module(repository: Path, name: str) -> bool:
    """Whether a dotted name is a module, a package, or a name that one of them says."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        place = repository.joinpath(*parts[:count])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                rest = parts[count:]
                return all(re.search(rf"\b{word}\b", file.read_text(encoding="utf-8")) for word in rest)
    return False


def test_every_reference_leads_somewhere(repository: Path) -> None:
    found = [fault for path, text in texts(repository).items() for fault in lost(repository, path, text)]
    assert found == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("README.md", "see [the guide](docs/guide.md)"),
        ("docs/scheduling.md", "see [a heading](testing.md#no-such-heading)"),
        ("isa/spec.py", '"""As isa.md section 6 says."""'),
        ("compiler/driver.py", "# as in compiler/ops/no_such.py"),
        ("runtime/host.py", '"""What `isa.timing.nothing` gives."""'),
        ("x1/api.py", "# docs/no-such-page.md"),
    ],
)
def test_a_reference_that_leads_nowhere_is_found(repository: Path, path: str, text: str) -> None:
    assert list(lost(repository, path, text))
