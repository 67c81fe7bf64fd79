"""A PaliGemma of random weights, for what does not depend on what it says."""

import pytest
import torch

from benchmarks.paligemma.reference import SMALL, WORDS
from helpers.vlm.paligemma import PaliGemmaModel
from helpers.vlm.pipeline import TASKS, PaliGemma


@pytest.fixture(scope="session")
def untaught():
    torch.manual_seed(0)
    return PaliGemma(PaliGemmaModel(SMALL).eval(), WORDS, tasks=TASKS)
