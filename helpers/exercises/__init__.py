"""Exercises that check themselves: `check("02.1", answer)` says whether an answer is right, and if not, why.

Each notebook has a module, n00.py, n01.py, ..., which is imported when its first exercise is checked.
"""

from helpers.exercises.checking import check

__all__ = ["check"]
