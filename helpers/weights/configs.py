"""Compare the configuration that comes with weights with what the course computes: followed or refused, never ignored.

Most entries of a config.json show in the shapes of the tensors. Those that do not (an activation, a number of heads, a
scaling factor) change every image without any error, so each must be looked at.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.weights.pretrained import read_json_config


class PublishedConfig:
    """The entries of one JSON file, and the file for error messages."""

    def __init__(self, file: Path, entries: Mapping[str, Any] | None = None):
        """`entries`: those of the file; None: read them, none where there is no such file. Raises ValueError."""
        self.file = file
        if entries is None:
            entries = read_json_config(file) if file.is_file() else {}
        self.entries = entries

    def get(self, name: str, default: Any = None) -> Any:
        """An entry as it is; the default where it is absent or null."""
        value = self.entries.get(name)
        return default if value is None else value

    def section(self, name: str) -> "PublishedConfig":
        """A dictionary within the file, empty where it is absent."""
        inner = self.get(name, {})
        if not isinstance(inner, Mapping):
            raise self.refusal(name, inner, "a dictionary")
        return PublishedConfig(self.file, inner)

    def refusal(self, name: str, value: object, computed: str, advice: str = "") -> ValueError:
        """The error for an entry that the course does not follow."""
        advice = advice or "take weights that were trained so; changing the entry would not change the weights"
        return ValueError(f"{self.file} says {name} {value!r}, and the course computes with {computed}: {advice}")

    def require(self, computed: Mapping[str, Any]) -> None:
        """Check entries that the course does not follow.

        Args:
            computed: name -> the only value, or a tuple of values that mean the same. An absent entry is right, and so
                is null where None is among the values.

        Raises:
            ValueError: for another value; it says what, where and what to do.
        """
        for name, expected in computed.items():
            allowed = expected if isinstance(expected, tuple) else (expected,)
            value = self.entries.get(name, allowed[0])
            if value not in allowed:
                raise self.refusal(name, value, " or ".join(repr(each) for each in allowed))

    def number(self, name: str, default: float, low: float = -math.inf) -> float:
        """A finite number above `low`, or the default where the entry is absent or null.

        Raises:
            ValueError: for anything else.
        """
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= low:
            above = "" if low == -math.inf else f" above {low:g}"
            raise ValueError(f"{self.file} says {name} {value!r}, which should be a number{above}: mend the entry")
        return value

    def number_or_null(self, name: str, default: float | None, low: float = -math.inf) -> float | None:
        """As `number`, but null is None, and only an absent entry has the default."""
        if name not in self.entries:
            return default
        return None if self.entries[name] is None else self.number(name, 0.0, low)

    def choice(self, name: str, values: Mapping[str, str], default: str) -> str:
        """Translate a text by a table. Raises ValueError for one that is not in it."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in values:
            raise self.refusal(name, value, " or ".join(map(repr, values)))
        return values[value]

    def heads(self, name: str, default: int, width: int) -> int:
        """A number of attention heads that divides the width. Raises ValueError for another."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or width % value:
            raise self.refusal(name, value, f"heads that share {width} channels evenly")
        return value
