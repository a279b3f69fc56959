"""The layers of the package: imports go down only, and no module reaches into another.

`python tests/test_layers.py [folder]` prints the numbers of a tree.

Read with `ast`, so that imports inside functions and under TYPE_CHECKING count as well. A class
that is looked up by name (`mahalad.lazy`, the table of class names) is no import.

The faces (`mahalad/__init__.py`, `mahalad/images/__init__.py`, ...) are for users and stay out of
the graph: they hand on names lazily, and nothing inside may import them.

A private access is `thing._name` where `thing` is not `self`, `cls` or `super()`, and the module
defines no `_name`: no function, method or class of that name, no variable of the module or of a
class body, and no `self._name = ...`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

PACKAGE = Path(__file__).parent.parent / "mahalad"

ORDER = (
    "errors", "possible", "lazy", "unfitted", "protocols", "progress", "choices", "checks",
    "arrays", "result", "images", "files", "features", "scorers", "thresholds", "detectors",
    "index", "metric", "runtime", "export", "loading", "evaluation", "report", "distributed",
    "bench", "demo", "commands", "cli",
)  # fmt: skip
"""Modules of the package root and folders, lowest first: each imports only what stands before."""

LONGEST_CHAIN = {"folders": 8, "modules": 14}
"""Most folders (modules) in one chain of imports; modules of the root count as no folder."""

LONGEST_MODULE = 350
NAMEDTUPLE = {"_asdict", "_fields", "_make", "_replace"}

# Exceptions. One that no longer occurs fails the test: strike it.

UPWARD: set[tuple[str, str]] = set()
"""(importing module, imported module)."""

IN_CIRCLES: set[str] = set()
"""Modules that import themselves through others."""

CHAINS: dict[str, int] = {}
"""Kind to the length of a chain that is longer than it may be."""

FACES: set[tuple[str, str]] = set()
"""(importing module, imported package)."""

PRIVATE: dict[str, set[str]] = {}
"""Module to private names that it uses of others."""

LONG: dict[str, str] = {
    "detectors.detector": "one estimator: its public methods, with their documentation",
    "features.backbones": "one seam: a network, its levels, weights and engine as one value",
    "files.layouts": "tables: what every kind of file is made up of",
    "index.server": "one backend: the whole contract, and what a server needs to be asked for it",
    "metric.autoencoder.autoencoder": "one estimator: its public methods, with their documentation",
    "scorers.positions.scorer": "one estimator: its public methods, with their documentation",
    "metric.classifier": "one estimator: its public methods, with their documentation",
}
"""Module to the reason why it is longer than LONGEST_MODULE lines."""


class Module:
    """A module's tree, its name below the package (`scorers.gaussian`) and what it imports."""

    def __init__(self, path: Path, package: Path) -> None:
        parts = path.relative_to(package).with_suffix("").parts
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    @property
    def n_lines(self) -> int:
        return len(self.text.splitlines())

    def imported(self) -> Iterator[tuple[str, str | None]]:
        """Module and name of every import from the package; the name is None for `import x`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                source = self._absolute(node)
                yield from ((source, alias.name) for alias in node.names)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        here = ["mahalad", *filter(None, self.name.split("."))]
        base = here[: len(here) + self.is_package - node.level]
        return ".".join(base + ([node.module] if node.module else []))

    def own_private_names(self) -> set[str]:
        found = set(NAMEDTUPLE)
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            if isinstance(node, (ast.Module, ast.ClassDef)):
                found |= set(assigned(node.body))
            if is_attribute(node) and isinstance(node.ctx, ast.Store) and is_own(node.value):
                found.add(node.attr)
        return found

    def private_accesses(self) -> list[str]:
        """Private names of others, once for every place where one is used."""
        own = self.own_private_names()
        imported = [name for _, name in self.imported() if name and is_private(name)]
        attributes = [node for node in ast.walk(self.tree) if is_attribute(node)]
        others = [node.attr for node in attributes if not is_own(node.value)]
        return imported + [name for name in others if is_private(name) and name not in own]

    def probes(self) -> int:
        calls = [node.func for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        return sum(isinstance(f, ast.Name) and f.id in ("hasattr", "getattr") for f in calls)


def assigned(body: list[ast.stmt]) -> Iterator[str]:
    """Names that the statements of a module or of a class body assign."""
    for line in body:
        if isinstance(line, ast.Assign):
            yield from (target.id for target in line.targets if isinstance(target, ast.Name))
        elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            yield line.target.id


def is_attribute(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def is_own(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        value = value.func
        return isinstance(value, ast.Name) and value.id == "super"
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def place(module: str) -> str:
    """The folder of a module, or the module itself when it stands in the package root."""
    return module.split(".", 1)[0]


@cache
def modules_of(package: Path) -> dict[str, Module]:
    found = [Module(path, package) for path in sorted(package.rglob("*.py"))]
    return {module.name: module for module in found}


def resolve(source: str, name: str | None, modules: dict[str, Module]) -> str | None:
    """The module that an import means; None for one from outside, and for `__version__`."""
    if source != "mahalad" and not source.startswith("mahalad."):
        return None
    if (source, name) == ("mahalad", "__version__"):
        return None
    inside = source.removeprefix("mahalad").removeprefix(".")
    below = f"{inside}.{name}".removeprefix(".")
    return below if below in modules else inside


@cache
def graph_of(package: Path) -> dict[str, set[str]]:
    """Module to the modules and packages that it imports, without the faces' own imports and
    without `__main__`, another name of `cli`."""
    modules = modules_of(package)
    graph = {}
    for module in modules.values():
        if not module.is_package and module.name != "__main__":
            found = {resolve(source, name, modules) for source, name in module.imported()}
            graph[module.name] = {target for target in found if target is not None}
    return graph


def edges(package: Path = PACKAGE) -> Iterator[tuple[str, str]]:
    """Imports of modules by modules."""
    graph = graph_of(package)
    for module, targets in graph.items():
        yield from ((module, target) for target in sorted(targets) if target in graph)


def knots(pairs: set[tuple[str, str]]) -> list[list[str]]:
    """Sets of nodes that reach each other, lowest first (Tarjan 1972)."""
    targets: dict[str, list[str]] = {}
    for start, end in sorted(pairs):
        targets.setdefault(start, []).append(end)
        targets.setdefault(end, [])
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for target in targets[node]:
            if target not in number:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == number[node]:
            at = stack.index(node)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for node in targets:
        if node not in number:
            visit(node)
    return found


def longest_chain(pairs: set[tuple[str, str]]) -> list[str]:
    """Nodes of the longest chain, from the top; a circle counts with all its nodes."""
    knot_of = {node: tuple(knot) for knot in knots(pairs) for node in knot}
    longest: dict[tuple[str, ...], list[str]] = {}
    for knot in knots(pairs):  # those below come first
        key = tuple(knot)
        below = [longest[knot_of[end]] for start, end in pairs if start in knot and end not in knot]
        longest[key] = [*knot, *max(below, key=len, default=[])]
    return max(longest.values(), key=len, default=[])


def between(kind: str, package: Path = PACKAGE) -> set[tuple[str, str]]:
    """Imports between modules, or between folders."""
    if kind == "modules":
        return set(edges(package))
    folders = {place(module) for module in graph_of(package) if "." in module}
    pairs = {(place(start), place(end)) for start, end in edges(package)}
    return {(a, b) for a, b in pairs if a != b and {a, b} <= folders}


def circles(package: Path = PACKAGE) -> set[tuple[str, ...]]:
    alone = {(a,) for a, b in edges(package) if a == b}
    return alone | {tuple(knot) for knot in knots(set(edges(package))) if len(knot) > 1}


def upward(package: Path = PACKAGE) -> set[tuple[str, str]]:
    rank = {name: position for position, name in enumerate(ORDER)}
    return {(a, b) for a, b in edges(package) if rank[place(a)] < rank[place(b)]}


def assert_only(found: set[object], allowed: set[object], rule: str) -> None:
    """Nothing but the exceptions, and all of them."""
    new, gone = sorted(found - allowed, key=str), sorted(allowed - found, key=str)
    assert not new, f"{rule}: {new}"
    assert not gone, f"{rule}: no longer, strike the exceptions {gone}"


def test_every_module_has_a_place_in_the_order():
    assert {place(module) for module in graph_of(PACKAGE)} == set(ORDER)


def test_imports_go_down():
    assert_only(upward(), UPWARD, "imports what stands above")


def test_no_module_imports_itself_through_others():
    found = {module for circle in circles() for module in circle}
    assert_only(found, IN_CIRCLES, f"in circles {circles()}")


@pytest.mark.parametrize("kind", list(LONGEST_CHAIN))
def test_chains_of_imports_are_short(kind):
    chain = longest_chain(between(kind))
    limit = LONGEST_CHAIN[kind]
    assert len(chain) <= CHAINS.get(kind, limit), " > ".join(chain)
    assert kind not in CHAINS or len(chain) > limit, f"no longer, strike the exception {kind}"


def test_nothing_inside_imports_a_face():
    graph = graph_of(PACKAGE)
    found = {(a, b or "mahalad") for a, targets in graph.items() for b in targets if b not in graph}
    assert_only(found, FACES, "imports a package, not the module that it means")


def test_faces_import_nothing_but_their_own_modules_when_typed():
    """At run time, a face needs `mahalad.lazy` alone; the package's logger is silenced there."""
    for module in modules_of(PACKAGE).values():
        if module.is_package:
            lines = [line for line in module.tree.body if not isinstance(line, ast.If)]
            sources = {
                line.module for line in lines if isinstance(line, ast.ImportFrom) and line.module
            } | {a.name for line in lines if isinstance(line, ast.Import) for a in line.names}
            assert sources <= {"__future__", "typing", "logging", "mahalad.lazy"}, module.name


def test_no_module_uses_private_names_of_another():
    found = {
        (module.name, name)
        for module in modules_of(PACKAGE).values()
        for name in module.private_accesses()
    }
    allowed = {(module, name) for module, names in PRIVATE.items() for name in names}
    assert_only(found, allowed, "private names of others")


def test_long_modules_have_a_reason():
    long = {m.name for m in modules_of(PACKAGE).values() if m.n_lines > LONGEST_MODULE}
    assert_only(long, set(LONG), f"over {LONGEST_MODULE} lines")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from mahalad.errors import _hidden", ["_hidden"]),
        ("other._x = 1", ["_x"]),
        ("def f():\n return other.part._x", ["_x"]),
        ("class A:\n def f(self, other):\n  self._x = 1\n  return other._x", []),
        ("class A:\n _x: int = 1\ndef f(a):\n return a._x", []),
        ("class A:\n def f(self):\n  return self._x + super()._x", []),
        ("def _x(): ...\nimport thing\nthing._x()", []),
        ("point._replace(x=1).__dict__", []),
    ],
)
def test_private_accesses_are_found(tmp_path, text, expected):
    (tmp_path / "some.py").write_text(text)
    assert Module(tmp_path / "some.py", tmp_path).private_accesses() == expected


def test_imports_are_found_wherever_they_stand(tmp_path):
    for name in ("images", "metric"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "__init__.py").touch()
    (tmp_path / "errors.py").touch()
    (tmp_path / "images" / "sources.py").write_text(
        "import mahalad\nfrom mahalad import __version__\nfrom mahalad.images import open_image\n"
        "if TYPE_CHECKING:\n from ..errors import MahaladError\n"
    )
    (tmp_path / "metric" / "own.py").write_text(
        "def f():\n from mahalad.images import sources\n from . import own\n import numpy\n"
    )
    assert graph_of(tmp_path) == {
        "errors": set(),
        "images.sources": {"", "images", "errors"},
        "metric.own": {"images.sources", "metric.own"},
    }
    assert upward(tmp_path) == set()
    assert circles(tmp_path) == {("metric.own",)}
    assert longest_chain(between("modules", tmp_path))[-2:] == ["images.sources", "errors"]
    assert longest_chain(between("folders", tmp_path)) == ["metric", "images"]


def numbers(package: Path) -> dict[str, int]:
    modules = modules_of(package).values()
    return {
        "modules in the package root": sum("." not in m.name and not m.is_package for m in modules),
        "private accesses across modules": sum(len(m.private_accesses()) for m in modules),
        "hasattr and getattr": sum(m.probes() for m in modules),
        "modules in circles": sum(len(circle) for circle in circles(package)),
        "longest chain of modules": len(longest_chain(between("modules", package))),
        "longest chain of folders": len(longest_chain(between("folders", package))),
        "modules": len(modules),
        "lines": sum(m.n_lines for m in modules),
    }


if __name__ == "__main__":
    for what, number in numbers(Path(sys.argv[1]) if sys.argv[1:] else PACKAGE).items():
        print(f"{number:6,} {what}")
