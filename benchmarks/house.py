"""The state of the code itself: import circles, types, format, dense lines, and names that say nothing.

The functions measure a piece of source or a dictionary of sources, so that tests can prove that each notices a fault;
`check` applies them to `helpers`, `benchmarks` and `pages`.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.report import Row, at_most

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("helpers", "benchmarks", "pages")
MOST_PARALLEL_ASSIGNMENTS = 6.0  # in 1,000 lines; nanoGPT has 4.9, smalldiffusion 2.2
MOST_DOUBLE_COMPREHENSIONS = 5  # in all three packages together

# Words that do not say which thing they hold: design.md has the reasons, and CONTRIBUTING.md the field's terms.
FORBIDDEN = (
    *("told", "again", "made", "asked", "drawn", "found", "wanted", "given", "one", "own", "kind"),
    *("answer", "words", "reader", "spread", "picture"),
)
# (file pattern, name): why the name may stay there
ALLOWED_NAMES = {
    (r"helpers/((vlm|ask)/.*|data/questions)\.py", "answer"): "to a question about an image, as in VQA datasets",
    (r"helpers/ask/answers\.py", "Answer"): "the same, with its image",
    (r"helpers/exercises/.*", "answer"): "what a learner hands in for an exercise",
    (r"benchmarks/exercises\.py", "answer"): "the same",
    (r"benchmarks/(exercises|paligemma/claims)\.py", "answers"): "the same, or answers to questions about an image",
}


def read_sources(*packages: str, root: Path = ROOT) -> dict[str, str]:
    """Every Python file of the packages: its path relative to the root, and its text."""
    sources = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            if "_build" not in path.parts:
                sources[path.relative_to(root).as_posix()] = path.read_text()
    return sources


# -- import circles


def import_circles(sources: Mapping[str, str]) -> list[list[str]]:
    """Groups of modules that import one another, at their top or inside a function, directly or by way of others.

    Returns:
        Sorted lists of dotted names, one list for each strongly connected component with more than one module.
    """
    graph = _import_graph(sources)
    reachable = {name: _reachable(graph, name) for name in graph}
    circles = {
        tuple(sorted(other for other in reachable[name] if name in reachable[other]))
        for name in graph
        if name in reachable[name]
    }
    return [list(circle) for circle in sorted(circles)]


def _import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """For every module the modules among `sources` that it imports."""
    modules = {_module_name(path): (path, source) for path, source in sources.items()}
    graph: dict[str, set[str]] = {}
    for name, (path, source) in modules.items():
        package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
        imported = {_longest_known(dotted, modules) for dotted in imported_names(source, package)}
        graph[name] = {other for other in imported if other is not None and other != name}
    return graph


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_names(source: str, package: str) -> Iterator[str]:
    """The dotted name of everything that a source imports; relative imports start from `package`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) + 1 - node.level], base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _longest_known(dotted: str, modules: Mapping[str, object]) -> str | None:
    """The module that an import leads to: `a.b.c` is the module a.b.c, or else the name c of the module a.b."""
    for name in (dotted, dotted.rpartition(".")[0]):
        if name in modules:
            return name
    return None


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """All modules to which a chain of at least one import leads."""
    reached: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += graph[name]
    return reached


# -- dense lines


def parallel_assignments(source: str) -> list[int]:
    """Line numbers of assignments of a tuple to a tuple, such as `a, b = f(), g()`; unpacking a call is none."""
    return sorted(
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Tuple)
        and any(isinstance(target, ast.Tuple) for target in node.targets)
    )


def double_comprehensions(source: str) -> list[int]:
    """Line numbers of comprehensions and generator expressions with two `for` or more."""
    comprehensions = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    return sorted(
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, comprehensions) and len(node.generators) > 1
    )


# -- names


def bound_names(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a source binds: variables, arguments, functions, classes and attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.lineno, node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, alias.asname) for alias in node.names if alias.asname)


def forbidden_names(path: str, source: str) -> list[tuple[int, str]]:
    """Line and name of every forbidden name that a file binds: alone, as a plural, or with underscores in front."""
    return sorted(
        (line, name) for line, name in bound_names(source) if _is_forbidden(name) and not _is_allowed(path, name)
    )


def _is_forbidden(name: str) -> bool:
    bare_name = name.strip("_").lower()
    return bare_name in FORBIDDEN or bare_name.removesuffix("s") in FORBIDDEN


def _is_allowed(path: str, name: str) -> bool:
    return any(allowed == name.strip("_") and matches(pattern, path) for pattern, allowed in ALLOWED_NAMES)


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern of ALLOWED_NAMES is about a file."""
    return re.fullmatch(pattern, path) is not None


# -- tools


def type_errors() -> list[str]:
    """What mypy reports on the three packages, one line each; it reads its settings from pyproject.toml."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", *PACKAGES]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in result.stdout.splitlines() if ": error:" in line]
    if result.returncode not in (0, 1) or (result.returncode and not errors):
        raise RuntimeError(f"mypy did not run: {result.stderr.strip() or result.stdout.strip()}")
    return errors


def unformatted_files() -> list[str]:
    """Files that `ruff format` would change."""
    command = [sys.executable, "-m", "ruff", "format", "--check", "."]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    prefix = "Would reformat: "
    files = [line.removeprefix(prefix) for line in result.stdout.splitlines() if line.startswith(prefix)]
    if result.returncode not in (0, 1) or (result.returncode and not files):
        raise RuntimeError(f"ruff did not run: {result.stderr.strip() or result.stdout.strip()}")
    return files


def check() -> list[Row]:
    """One row for each measure of the house."""
    sources = read_sources(*PACKAGES)
    lines = sum(len(source.splitlines()) for source in sources.values())
    parallel = sum(len(parallel_assignments(source)) for source in sources.values())
    double = sum(len(double_comprehensions(source)) for source in sources.values())
    forbidden = sum(len(forbidden_names(path, source)) for path, source in sources.items())
    return [
        at_most("import circles", len(import_circles(sources)), 0),
        at_most("type errors (mypy)", len(type_errors()), 0),
        at_most("files that ruff format would change", len(unformatted_files()), 0),
        at_most("parallel assignments per 1,000 lines", 1000 * parallel / lines, MOST_PARALLEL_ASSIGNMENTS),
        at_most("comprehensions with two `for`", double, MOST_DOUBLE_COMPREHENSIONS),
        at_most("names that say nothing", forbidden, 0),
    ]
