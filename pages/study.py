"""The study plan: each notebook's title, what to read before it, how hard it is and how many hours it takes.

This table is written by hand. The hours are estimates for reading the text at an unhurried pace, running and changing
the cells, and solving the exercises; they follow the lengths of the notebooks (130 words and 8 lines of code a minute,
8 minutes an exercise), for readers' hours have not been measured.
"""

from typing import NamedTuple


class Plan(NamedTuple):
    """Title, prerequisites, difficulty and study time of a notebook."""

    title: str
    before: tuple[str, ...]  # the numbers of the notebooks that it builds on
    difficulty: str
    hours: float


PLANS = {
    "00": Plan("A first success", (), "easy", 0.5),
    "01": Plan("Data exploration", (), "easy", 3),
    "02": Plan("DDPM from scratch", (), "hard", 2.5),
    "03": Plan("Samplers", ("02",), "hard", 2),
    "04": Plan("Guidance and flow matching", ("02", "03"), "medium", 1.5),
    "05": Plan("Stable Diffusion 1", ("02", "03", "04"), "medium", 3),
    "06": Plan("Stable Diffusion 3", ("03", "04", "05"), "hard", 2.5),
    "07": Plan("VAE variants", ("01", "02"), "hard", 2.5),
    "08": Plan("VQ-VAE", ("07",), "medium", 2),
    "09": Plan("Tiny SD, Method 1: pixels", ("01", "02", "03", "04", "05"), "medium", 2.5),
    "10": Plan("Judging a generator", ("09",), "medium", 2),
    "11": Plan("Tiny SD, Method 2: pretrained latents", ("05", "07", "09", "10"), "medium", 1.5),
    "12": Plan("Tiny SD, Method 3: our own latents", ("07", "08", "10", "11"), "medium", 1.5),
    "13": Plan("Three methods compared", ("09", "10", "11", "12"), "easy", 1.5),
    "14": Plan("PaliGemma", ("05", "08"), "hard", 3),
    "15": Plan("The multimodal landscape", ("14",), "medium", 2),
}

ROUTES = {  # each after notebook 00
    "understand Stable Diffusion": ("02", "03", "04", "05", "06"),
    "train your own model": ("01", "02", "03", "04", "07", "09", "10", "11", "12", "13"),
    "work with vision-language models": ("05", "08", "14", "15"),
}


def hours(count: float) -> str:
    """Hours as they are written: "2 h", "1½ h", "½ h"."""
    whole, half = divmod(round(2 * count), 2)
    return f"{whole or ''}{'½' if half else ''} h"
