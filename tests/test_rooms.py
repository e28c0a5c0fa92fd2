"""The architecture holds: rooms in order, no circles, regions by name; and what finds the contrary finds it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.rooms import bare_numbers, circles, imported, misplaced, nodes, sources

CODE = cache(sources)


def planted(repository: Path, path: str, text: str) -> dict[str, str]:
    """The code of the packages with more of it at the end of a file."""
    code = CODE(repository)
    return {**code, path: f"{code.get(path, '')}\n{text}\n"}


def test_files_import_only_from_rooms_before_theirs(repository: Path) -> None:
    assert list(misplaced(CODE(repository))) == []


def test_no_files_import_one_another_in_a_circle(repository: Path) -> None:
    assert circles(CODE(repository)) == []


def test_regions_and_spaces_are_called_by_name(repository: Path) -> None:
    assert list(bare_numbers(CODE(repository))) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("isa/spec.py", "from isa.program import Program"),
        ("isa/support/paths.py", "def late():\n    import isa.target"),
        ("compiler/ir/graph.py", "if TYPE_CHECKING:\n    from compiler.ops.gemm import Gemm"),
        ("compiler/schedule/tiles/boxes.py", "from compiler.schedule.segments import plan"),
        ("compiler/driver.py", "from runtime.state import CoreState"),
        ("runtime/host.py", "import compiler.errors"),
        ("x1/api.py", "from x1.cli import main"),
        ("isa/unheard_of.py", "pass"),
    ],
)
def test_an_import_against_the_order_is_found(repository: Path, path: str, text: str) -> None:
    (found,) = misplaced(planted(repository, path, text))
    assert path in found


@pytest.mark.parametrize(
    ("path", "text", "members"),
    [
        ("isa/support/records.py", "import isa.support.paths", 4),
        ("compiler/ops/gemm.py", "from compiler.ops import matmul", 2),
    ],
)
def test_a_circle_of_files_is_found(repository: Path, path: str, text: str, members: int) -> None:
    code = planted(repository, path, text)
    if members == 2:
        code["compiler/ops/matmul.py"] += "\nfrom compiler.ops.gemm import Gemm\n"
    (found,) = circles(code)
    assert path in found
    assert len(found) == members


@pytest.mark.parametrize(
    "text",
    [
        "Load(region=5)",
        "x = access.region == 3",
        "x = region in (0, 5)",
        "x = 2 != tensor.space",
        'Access("a", 0, 0, ())',
        "state.place(1, 0, b'')",
        "region = 4",
        "region: int = 0",
        "def f(a, region=1): pass",
        "x = regions[3]",
        "match region:\n    case 6: pass",
    ],
)
def test_a_bare_number_for_a_region_or_a_space_is_found(repository: Path, text: str) -> None:
    path = "runtime/host.py"
    (found,) = bare_numbers(planted(repository, path, text), [path])
    assert found.startswith(path)


def test_submodules_count_and_not_their_package(repository: Path) -> None:
    code = planted(repository, "x1/data.py", "from compiler import driver")
    added = imported("x1/data.py", code) - imported("x1/data.py", CODE(repository))
    assert added == {"compiler/driver.py"}


def test_no_class_name_stands_for_two_things(repository: Path) -> None:
    homes: dict[str, list[str]] = {}
    for path, text in CODE(repository).items():
        for node in (
            nodes(text) if not path.startswith("x1/keras/") else ()
        ):  # Keras has given the names there
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(path)
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}
