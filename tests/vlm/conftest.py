"""A PaliGemma with random weights, for tests that do not depend on its answers."""

import pytest
import torch

from benchmarks.paligemma.reference import SMALL, TOKENIZER
from helpers.vlm.paligemma import PaliGemmaModel
from helpers.vlm.pipeline import TASKS, PaliGemma


@pytest.fixture(scope="session")
def assistant():
    torch.manual_seed(0)
    return PaliGemma(PaliGemmaModel(SMALL).eval(), TOKENIZER, tasks=TASKS)
