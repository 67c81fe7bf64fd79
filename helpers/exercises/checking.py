"""What the judges of all exercises share: asking a learner's function, comparing, and saying what is wrong."""

import html
import importlib
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Judge = Callable[[Any], str]
FOUND: dict[str, "Exercise"] = {}
SIGNS = {"right": "\N{CHECK MARK}", "wrong": "\N{BALLOT X}", "blank": "\N{WHITE CIRCLE}"}
STILL_BLANK = "is still to do. Put your answer in place of the three dots, and run the cell again."


class Wrong(Exception):  # noqa: N818  a judge reads as a sentence: raise Wrong(...)
    """What is wrong with an answer, in words for the learner."""


class Blank(Exception):  # noqa: N818
    """Three dots where an answer was wanted."""


@dataclass(frozen=True)
class Exercise:
    """A number such as "02.1", who judges its answers, and typical mistakes: part of what is said -> the answer."""

    number: str
    judge: Judge
    mistakes: Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a notebook shows under an exercise."""

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
    """Make a judge known. It takes the answer, returns what the right one shows, and raises `Wrong` or `Blank`."""

    def register(judge: Judge) -> Judge:
        FOUND[number] = Exercise(number, judge, mistakes)
        return judge

    return register


def exercises(notebook: str) -> dict[str, Exercise]:
    """Those of a notebook, "01" to "12", by number.

    Raises:
        ValueError: if the notebook has none.
    """
    if not (Path(__file__).parent / f"n{notebook}.py").exists():
        raise ValueError(f"notebook {notebook!r} has no exercises that check themselves")
    importlib.import_module(f"helpers.exercises.n{notebook}")
    return {number: found for number, found in sorted(FOUND.items()) if number.startswith(f"{notebook}.")}


def check(number: str, answer: Any) -> Verdict:
    """Judge an answer: a number, a word or a function, as the exercise asks.

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


def ask(function: Any, *given: Any) -> Any:
    """What a learner's function answers.

    Raises:
        Blank: for three dots.
        Wrong: if it is no function, stops with an error, or gives nothing back.
    """
    if not callable(function):
        raise Wrong(f"This exercise wants a function, without brackets behind its name; it got {_told(function)}.")
    try:
        answer = function(*map(_copied, given))
    except Exception as error:
        own = [f.line for f in traceback.extract_tb(error.__traceback__)[1:] if "site-packages" not in f.filename]
        where = f" (in the line `{own[-1]}`)" if own else ""
        raise Wrong(f"Your function stopped with {type(error).__name__}: {error}{where}.") from None
    if answer is None:
        raise Wrong("Your function gives nothing back: is there a `return` in front of its result?")
    parts = answer if isinstance(answer, tuple | list) else [answer]
    if any(part is ... or part is None for part in parts):
        raise Blank
    return answer


def number(given: Any) -> float:
    """The answer as a number.

    Raises:
        Wrong: if it is none.
    """
    try:
        return float(given)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"This exercise wants one number; it got {_told(given)}.") from None


def tensor(given: Any, like: Any) -> Any:
    """The answer, if it is a tensor of the shape and kind wanted.

    Raises:
        Wrong: if not; both shapes are told.
    """
    import torch

    if not isinstance(given, torch.Tensor):
        raise Wrong(f"Your function should give a tensor of shape {tuple(like.shape)}; it gave {_told(given)}.")
    if given.shape != like.shape:
        raise Wrong(f"Your result has the shape {tuple(given.shape)}; {tuple(like.shape)} was wanted.")
    if given.dtype != like.dtype:
        raise Wrong(f"Your result holds {given.dtype}; {like.dtype} was wanted.")
    return given


def close(given: Any, wanted: Any, tolerance: float = 1e-4) -> bool:
    """Equal but for rounding; numbers and tensors, False for other shapes."""
    import torch

    given = torch.as_tensor(given)
    wanted = torch.as_tensor(wanted)
    return given.shape == wanted.shape and torch.allclose(given.double(), wanted.double(), tolerance, tolerance)


def _copied(thing: Any) -> Any:
    """Tensors anew, so that an answer that works in place spoils nothing for the judge."""
    if isinstance(thing, tuple | list):
        return type(thing)(map(_copied, thing))
    return thing.clone() if hasattr(thing, "clone") else thing


def _told(thing: Any) -> str:
    shape = getattr(thing, "shape", None)
    return f"a {type(thing).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else f", {str(thing)[:40]}")
