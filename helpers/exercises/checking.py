"""Shared by the judges of all exercises: call a learner's function, compare its result, and explain what is wrong."""

import html
import importlib
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Judge = Callable[[Any], str]
EXERCISES: dict[str, "Exercise"] = {}  # by number; filled when a notebook's module is imported
SIGNS = {"right": "\N{CHECK MARK}", "wrong": "\N{BALLOT X}", "blank": "\N{WHITE CIRCLE}"}
STILL_BLANK = "is still to do. Put your answer in place of the three dots, and run the cell again."


class Wrong(Exception):  # noqa: N818  a judge reads as a sentence: raise Wrong(...)
    """An answer is wrong; the message tells the learner why."""


class Blank(Exception):  # noqa: N818
    """The answer is still three dots."""


@dataclass(frozen=True)
class Exercise:
    """An exercise: its number such as "02.1", its judge, and typical mistakes: part of the message -> wrong answer."""

    number: str
    judge: Judge
    mistakes: Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """The result of a check, as a notebook shows it."""

    number: str
    state: str  # "right", "wrong" or "blank"
    text: str

    def __repr__(self) -> str:
        return f"{SIGNS[self.state]} {self.number} {self.text}"

    def _repr_html_(self) -> str:
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(self.text))
        return (
            f'<div style="border-left: 4px solid currentColor; padding: 0.2em 0.8em">'
            f"{SIGNS[self.state]} <b>{self.number}</b> {text}</div>"
        )


def exercise(number: str, mistakes: Mapping[str, Any]) -> Callable[[Judge], Judge]:
    """Register a judge. It takes the answer, returns what the right answer shows, or raises `Wrong` or `Blank`."""

    def register(judge: Judge) -> Judge:
        EXERCISES[number] = Exercise(number, judge, mistakes)
        return judge

    return register


def exercises(notebook: str) -> dict[str, Exercise]:
    """The exercises of a notebook, "00" to "15", by number.

    Raises:
        ValueError: if the notebook has none.
    """
    if not (Path(__file__).parent / f"n{notebook}.py").exists():
        raise ValueError(f"notebook {notebook!r} has no exercises that check themselves")
    importlib.import_module(f"helpers.exercises.n{notebook}")
    return {number: entry for number, entry in sorted(EXERCISES.items()) if number.startswith(f"{notebook}.")}


def check(number: str, answer: Any) -> Verdict:
    """Check an answer: a number, a text or a function, whatever the exercise asks for.

    Args:
        number: of the exercise, "02.1".
        answer: the learner's; three dots are a blank.

    Raises:
        ValueError: if there is no such exercise.
    """
    known = exercises(str(number).partition(".")[0])
    if number not in known:
        raise ValueError(f"there is no exercise {number}; this notebook has {', '.join(known)}")
    try:
        if answer is ... or answer is None:
            raise Blank
        return Verdict(number, "right", f"right: {known[number].judge(answer)}")
    except Blank:
        return Verdict(number, "blank", STILL_BLANK)
    except Wrong as wrong:
        return Verdict(number, "wrong", f"not yet: {wrong}")


def call(function: Any, *args: Any) -> Any:
    """Call a learner's function with copies of the arguments, and return its result.

    Raises:
        Blank: for three dots.
        Wrong: if it is not a function, raises an error, or returns nothing.
    """
    if not callable(function):
        raise Wrong(f"This exercise needs a function: its name without parentheses. It got {_describe(function)}.")
    try:
        result = function(*map(_copy, args))
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        lines = [frame.line for frame in frames if "site-packages" not in frame.filename]
        where = f" (in the line `{lines[-1]}`)" if lines else ""
        raise Wrong(f"Your function stopped with {type(error).__name__}: {error}{where}.") from None
    if result is None:
        raise Wrong("Your function returns nothing: is there a `return` in front of its result?")
    parts = result if isinstance(result, tuple | list) else [result]
    if any(part is ... or part is None for part in parts):
        raise Blank
    return result


def as_number(value: Any) -> float:
    """Convert an answer to a number.

    Raises:
        Wrong: if it is not one.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"This exercise needs a single number. It got {_describe(value)}.") from None


def as_pair(value: Any, message: str) -> tuple[float, float]:
    """Convert an answer to two numbers. Raises `Wrong` with this message if they are not two."""
    values = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise Wrong(message)
    return as_number(values[0]), as_number(values[1])


def as_tensor(value: Any, like: Any) -> Any:
    """Return an answer if it is a tensor of the same shape and dtype as `like`.

    Raises:
        Wrong: if not; the message has both shapes or dtypes.
    """
    import torch

    shape = tuple(like.shape)
    if not isinstance(value, torch.Tensor):
        raise Wrong(f"Your function should return a tensor of shape {shape}. It returned {_describe(value)}.")
    if value.shape != like.shape:
        raise Wrong(f"Your result has the shape {tuple(value.shape)}; it should be {shape}.")
    if value.dtype != like.dtype:
        raise Wrong(f"Your result has the dtype {value.dtype}; it should be {like.dtype}.")
    return value


def close(value: Any, expected: Any, tolerance: float = 1e-4) -> bool:
    """Whether numbers or tensors are equal up to rounding; False for different shapes."""
    import torch

    value = torch.as_tensor(value)
    expected = torch.as_tensor(expected)
    return value.shape == expected.shape and torch.allclose(value.double(), expected.double(), tolerance, tolerance)


def _copy(value: Any) -> Any:
    """Copy tensors, so that an answer that works in place does not change what the judge compares with."""
    if isinstance(value, tuple | list):
        return type(value)(map(_copy, value))
    return value.clone() if hasattr(value, "clone") else value


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    return f"a value of type {type(value).__name__}: {str(value)[:40]}"
