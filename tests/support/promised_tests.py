"""Check that a test which a promise names can fail: it exists, runs, and asserts something."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"`(?P<file>[a-z0-9_/]+)(::(?P<test>[a-z0-9_]+))?`(?= \||,| \()")
NEVER_RUN = {"skip", "skipif", "xfail"}
RAISING = {"raises", "warns"}


@dataclass(frozen=True)
class Named:
    """A test that a promise names, or every test of a file."""

    file: str
    test: str | None = None

    def __str__(self) -> str:
        return f"{self.file}::{self.test}" if self.test else self.file


def promises(page: str) -> dict[str, list[Named]]:
    """Return the promises in a page's tables, each with the tests that its last column names."""
    found, in_body = {}, False
    for line in page.splitlines():
        in_body = line.startswith("|") and (in_body or line.startswith("|---"))
        if in_body and not line.startswith("|---"):
            promise, _, shown = line.removeprefix("| ").removesuffix(" |").rsplit(" | ", 2)
            found[promise] = [Named(match["file"], match["test"]) for match in NAME.finditer(f"{shown} |")]
    return found


def faults(named: Named, tests: Path) -> list[str]:
    """Return why a named test proves nothing, one sentence each; `tests` is the folder of all tests."""
    folder, _, name = named.file.rpartition("/")
    path = tests / folder / f"test_{name}.py"
    if not path.exists():
        return [f"{named}: there is no {path.relative_to(tests)}"]
    module = ast.parse(path.read_text())
    found = {name: test for name, test in functions(module).items() if name.startswith("test_")}
    if named.test:
        found = {name: test for name, test in found.items() if name == f"test_{named.test}"}
    if not found:
        return [f"{named}: there is no such test"]
    helpers = functions(module) | imported_helpers(module, tests)
    proving = {name for name, test in found.items() if not never_run(module, test) and asserts(test, helpers)}
    return [f"{named}: {name} is skipped or asserts nothing" for name in found if name not in proving]


def functions(module: ast.Module) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}


def imported_helpers(module: ast.Module, tests: Path) -> dict[str, ast.FunctionDef]:
    """Return the functions that a test file imports from tests.support."""
    found = {}
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests.support."):
            file = tests / "support" / f"{node.module.removeprefix('tests.support.')}.py"
            theirs = functions(ast.parse(file.read_text()))
            found |= {
                name.asname or name.name: theirs[name.name] for name in node.names if name.name in theirs
            }
    return found


def never_run(module: ast.Module, test: ast.FunctionDef) -> bool:
    """Whether the test or its file is marked to be skipped or to fail."""
    marks = [
        node.value for node in module.body if isinstance(node, ast.Assign) and "pytestmark" in names(node)
    ]
    return any(NEVER_RUN & names(mark) for mark in [*test.decorator_list, *marks])


def asserts(test: ast.FunctionDef, helpers: dict[str, ast.FunctionDef]) -> bool:
    """Whether the test, or a helper that it calls, holds an assertion."""
    called = [helpers[name] for name in called_names(test) if name in helpers]
    return any(is_assertion(node) for function in (test, *called) for node in ast.walk(function))


def called_names(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def is_assertion(node: ast.AST) -> bool:
    """Whether a node is `assert`, pytest.raises, pytest.warns, assert_...(), or a call of np.testing."""
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    used = ast.unparse(node.func).split(".")
    by_pytest = used[0] == "pytest" and used[-1] in RAISING
    return by_pytest or used[-1].startswith("assert_") or "testing" in used[:-1]


def names(node: ast.AST) -> set[str]:
    """Return every identifier and attribute below a node."""
    parts = ast.walk(node)
    return {
        part.id if isinstance(part, ast.Name) else part.attr
        for part in parts
        if isinstance(part, ast.Name | ast.Attribute)
    }
