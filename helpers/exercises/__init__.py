"""Exercises that check themselves: `check("02.1", answer)` says whether an answer holds, and what is wrong with it.

One module per notebook, n01.py, n02.py, ..., is read when the first of its exercises is checked.
"""

from helpers.exercises.checking import check

__all__ = ["check"]
