"""The API reference: signatures and docstrings come through as they were meant."""

from typing import NamedTuple

from pages.reference import escape_markup, shorten_types, skip_tuple_fields


def test_abstract_types_are_written_without_their_modules() -> None:
    signature = "(f: ~collections.abc.Callable[[~torch.Tensor], float] | None = None, x: float = 0.5)"
    expected = "(f: Callable[[~torch.Tensor], float] | None = None, x: float = 0.5)"  # Sphinx shortens and links these
    assert shorten_types(None, "class", "Loss", None, None, signature, None) == (expected, None)
    assert shorten_types(None, "function", "f", None, None, None, "~typing.Any") == (None, "Any")


def test_stars_and_bars_are_themselves_outside_of_code() -> None:
    lines = ["a * b, |x| and `c * d`"]
    escape_markup(None, "function", "f", None, None, lines)
    assert lines == [r"a \* b, \|x\| and `c * d`"]


def test_fields_of_a_named_tuple_are_left_out() -> None:
    class Point(NamedTuple):
        x: float

        def norm(self) -> float:
            return abs(self.x)

    assert skip_tuple_fields(None, "class", "x", Point.x, False, None) is True
    assert skip_tuple_fields(None, "class", "norm", Point.norm, False, None) is None
