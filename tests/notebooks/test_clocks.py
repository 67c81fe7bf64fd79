"""No notebook asserts a time, a memory or a speed of the machine it runs on: those differ, and a course must not fail.

What a clock or a memory meter returns is followed through a notebook's assignments, calls, loops and conditions. An
assertion that it reaches is an error. Counted work (operations, network evaluations, tokens) and records are fine.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
import pytest

from pages.execute import notebooks

MODULES = {"time", "timeit", "datetime", "resource", "psutil", "tracemalloc", "torch.utils.benchmark"}
METERS = {
    "perf_counter",
    "perf_counter_ns",
    "process_time",
    "process_time_ns",
    "monotonic",
    "monotonic_ns",
    "thread_time",
    "time_ns",
    "elapsed_time",
    "timeit",
    "getrusage",
    "get_traced_memory",
    "memory_info",
    "virtual_memory",
    "memory_allocated",
    "max_memory_allocated",
    "memory_reserved",
    "max_memory_reserved",
    "mem_get_info",
}
CHECKS = ("assert", "check")  # how the names of functions start that raise where a value is not as it should be


class Clocks:
    """Follows what clocks and meters return through statements, in order; `assertions` are those it reaches."""

    def __init__(self) -> None:
        self.measured: set[str] = set()  # names whose values depend on a clock
        self.functions: dict[str, ast.FunctionDef] = {}
        self.assertions: list[str] = []
        self._inside: list[str] = []  # functions whose bodies are being followed

    def follow(self, statements: Iterable[ast.stmt], certain: bool = False) -> None:
        """`certain`: whether the statements run at all depends on a clock, and so does whatever they assign."""
        for statement in statements:
            self._follow(statement, certain)

    def depends(self, node: ast.AST | None) -> bool:
        """Whether any part of an expression does."""
        return node is not None and any(self._is_measured(part) for part in ast.walk(node))

    def _is_measured(self, part: ast.AST) -> bool:
        if isinstance(part, ast.Name):
            return part.id in self.measured
        return isinstance(part, ast.Attribute) and part.attr in METERS

    def _follow(self, node: ast.stmt, certain: bool) -> None:
        match node:
            case ast.Import() | ast.ImportFrom():
                self.measured |= set(_clock_names(node))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._define(node)
            case ast.Assert(test=test):
                self._check(node, certain or self.depends(test))
            case ast.Raise():
                self._check(node, certain)
            case ast.Assign(targets=targets, value=value):
                self._expression(value, certain)
                self._assign(targets, certain or self.depends(value))
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self._expression(value, certain)
                self._assign([target], certain or self.depends(value))
            case ast.AugAssign(target=target, value=value):
                self._expression(value, certain)
                self._assign([target], certain or self.depends(value) or self.depends(target))
            case ast.For(target=target, iter=values):
                for _ in range(2):  # what the end of a loop's body assigns, its beginning reads
                    self._expression(values, certain)
                    self._assign([target], certain or self.depends(values))
                    self.follow(node.body, certain)
                self.follow(node.orelse, certain)
            case ast.If(test=test) | ast.While(test=test):
                for _ in range(2):
                    self._expression(test, certain)
                    self.follow(node.body, certain or self.depends(test))
                self.follow(node.orelse, certain or self.depends(test))
            case ast.With(items=items):
                for item in items:
                    self._expression(item.context_expr, certain)
                    if item.optional_vars is not None:
                        self._assign([item.optional_vars], certain or self.depends(item.context_expr))
                self.follow(node.body, certain)
            case ast.Try():
                for block in (node.body, *(handler.body for handler in node.handlers), node.orelse, node.finalbody):
                    self.follow(block, certain)
            case ast.Expr(value=value) | ast.Return(value=value):
                self._expression(value, certain)

    def _expression(self, node: ast.AST | None, certain: bool) -> None:
        """Calls in an expression: checks, functions of the notebook, and methods that change what they belong to."""
        for call in ast.walk(node) if node is not None else ():
            if isinstance(call, ast.NamedExpr):
                self._assign([call.target], certain or self.depends(call.value))
            if not isinstance(call, ast.Call):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
            measured = certain or any(map(self.depends, arguments))
            if name.startswith(CHECKS):
                self._check(call, measured)
            if measured and name in self.functions and name not in self._inside:
                self._body(self.functions[name], measured)
            if measured and isinstance(call.func, ast.Attribute):
                self._assign([call.func.value], True, by_name=False)

    def _define(self, function: ast.FunctionDef) -> None:
        """A function whose result depends on a clock is measured itself: every call of it is."""
        self.functions[function.name] = function
        self.measured.discard(function.name)
        if self._body(function, False):
            self.measured.add(function.name)

    def _body(self, function: ast.FunctionDef, measured: bool) -> bool:
        """Follow a body, with arguments that depend on a clock or not; whether what it returns does."""
        before = set(self.measured)
        arguments = function.args
        names = {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        self.measured = self.measured | names if measured else self.measured - names
        self._inside.append(function.name)
        self.follow(function.body)
        self._inside.pop()
        parts = list(ast.walk(function))
        returned = any(self.depends(part.value) for part in parts if isinstance(part, ast.Return | ast.Yield))
        assigned = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        self.measured = before | (self.measured - assigned - names)  # a list outside that it appends to stays measured
        return returned

    def _assign(self, targets: Iterable[ast.expr], measured: bool, by_name: bool = True) -> None:
        for target in targets:
            if isinstance(target, ast.Tuple | ast.List | ast.Starred):
                self._assign(getattr(target, "elts", None) or [target.value], measured, by_name)
                continue
            whole = isinstance(target, ast.Name) and by_name
            while isinstance(target, ast.Subscript | ast.Attribute):
                target = target.value
            if not isinstance(target, ast.Name):
                continue
            if measured:
                self.measured.add(target.id)
            elif whole:
                self.measured.discard(target.id)  # the name has another value now

    def _check(self, node: ast.AST, measured: bool) -> None:
        if measured and (text := ast.unparse(node)) not in self.assertions:
            self.assertions.append(text)


def _clock_names(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The names that an import binds to a clock or a meter."""
    if isinstance(node, ast.Import):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names if alias.name in MODULES)
    else:
        for alias in node.names:
            if alias.name in METERS or {node.module, f"{node.module}.{alias.name}"} & MODULES:
                yield alias.asname or alias.name


def asserted(cells: Iterable[str]) -> list[str]:
    """The assertions of a notebook's cells that depend on a clock or a meter."""
    clocks = Clocks()
    for cell in cells:
        lines = ["pass" if line.lstrip().startswith(("%", "!")) else line for line in cell.splitlines()]
        clocks.follow(ast.parse("\n".join(lines)).body)
    return clocks.assertions


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_no_assertion_depends_on_a_clock(path: Path) -> None:
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert asserted(cells) == [], "assert counted work; print the time, or draw it from a record"


PLANTED = {
    "directly": ["import time\nstart = time.perf_counter()", "assert time.perf_counter() - start < 1"],
    "through names": ["from time import process_time as now", "a = now()", "b = now() - a\nc = 2 * b", "assert c < 1"],
    "through a function": [
        "import time\ndef seconds(f):\n    t = time.time()\n    f()\n    return time.time() - t",
        "ratio = seconds(old) / seconds(new)",
        "assert ratio > 1.4",
    ],
    "through a comprehension": [
        "from time import perf_counter",
        "times = {n: perf_counter() for n in names}",
        "worst = max(times.values())\nassert worst < 3",
    ],
    "through a list": [
        "import time\ntimes = []",
        "for n in range(3):\n    times.append(time.monotonic())",
        "assert times[-1] - times[0] < 2",
    ],
    "through a list, in a function": [
        "import time\ntimes = []\ndef note():\n    times.append(time.time())",
        "note()\nassert len(set(times)) == 1",
    ],
    "through an entry": ["import time\nrow = {}\nrow['s'] = time.time()", "a, *b = row.values()\nassert a < 9"],
    "as an argument": ["import time", "def small(value):\n    assert value < 1", "small(time.process_time())"],
    "by a check": ["import time\nspent = time.time()", "torch.testing.assert_close(spent, 1.0)"],
    "by a condition": ["import time\nslow = time.time() > 5", "if slow:\n    raise ValueError('too slow')"],
    "work done in a time": [
        "import time\nsteps, end = 0, time.time() + 1",
        "while time.time() < end:\n    steps += 1",
        "assert steps > 100",
    ],
    "in a loop": ["import time\nlast = 0", "for n in range(3):\n    assert last < 3\n    last = time.time()"],
    "memory of the card": ["import torch", "most = torch.cuda.max_memory_allocated() / 1e9\nassert most < 16"],
    "memory of the process": ["import psutil", "assert psutil.Process().memory_info().rss < 2e9"],
    "after a magic": ["%matplotlib inline\nimport time", "assert (now := time.time()) and now > 0"],
}


@pytest.mark.parametrize("cells", PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_assertion_is_found(cells: list[str]) -> None:
    assert len(asserted(cells)) == 1


FINE = {
    "a time that is printed": ["import time\nstart = time.time()", "print(time.time() - start)\nassert 1 + 1 == 2"],
    "counted work": ["with FlopCounterMode() as counter:\n    model(x)", "assert counter.get_total_flops() < 1e9"],
    "a record": ["record = json.loads(path.read_text())", "assert record['core_seconds'] < 60"],
    "a name with another value now": ["import time\nstart = time.time()\nstart = 3", "assert start == 3"],
    "another function's local name": [
        "import time\ndef f():\n    start = time.time()\n    print(start)",
        "start = 0\nf()\nassert start == 0",
    ],
    "a function that is not timed": ["import time\ndef f(x):\n    return x", "assert f(2) == 2\nprint(time.time())"],
}


@pytest.mark.parametrize("cells", FINE.values(), ids=FINE.keys())
def test_what_is_fine_is_not_found(cells: list[str]) -> None:
    assert asserted(cells) == []
