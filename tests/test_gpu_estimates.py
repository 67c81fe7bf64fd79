"""Estimates of the `gpu` profile: counted right, and of the trainings that the notebooks contain."""

import pytest
import torch
from torch import nn

from benchmarks import gpu_estimates
from benchmarks.gpu_estimates import LAUNCH, PEAK, SHARE, TRAININGS, Counts
from benchmarks.record import read_record
from pages import evidence


def test_a_linear_layer_is_counted_by_hand() -> None:
    with torch.device("meta"):
        layer = nn.Linear(1000, 500, bias=False)
        network = (layer, lambda batch_size: layer(torch.empty(batch_size, 1000)))
        training = gpu_estimates.count(network, 64)
        forward = gpu_estimates.count(network, 64, training=False)
    product = 2 * 64 * 1000 * 500
    assert forward.flops == product and training.flops == 2 * product  # and the gradient of the weights
    assert 0 < forward.kernels < training.kernels


def test_an_update_takes_what_is_longer() -> None:
    assert Counts(flops=int(SHARE * PEAK), kernels=1).seconds == pytest.approx(1)
    assert Counts(flops=0, kernels=100).seconds == pytest.approx(100 * LAUNCH)


def test_the_record_is_of_the_notebooks() -> None:
    """A notebook that trains for longer, or a network that grew, needs `python -m benchmarks.gpu_estimates`."""
    recorded = read_record(gpu_estimates.RECORD)
    now = gpu_estimates.record()
    kernels = [row.pop("kernels") for row in recorded["rows"]]
    minutes = [row.pop("minutes") for row in recorded["rows"]]
    assert [row.pop("kernels") for row in now["rows"]] == pytest.approx(kernels, rel=0.2)  # PyTorch's versions differ
    assert [row.pop("minutes") for row in now["rows"]] == pytest.approx(minutes, rel=0.2, abs=0.1)
    assert now == recorded


def test_every_training_of_the_profile_is_estimated() -> None:
    assert {training.notebook for training in TRAININGS} == {"07", "08", "09", "11", "12"}
    with pytest.raises(ValueError, match="not enough values"):
        gpu_estimates.gpu_value("07", "epochs")


def test_the_page_says_that_these_are_estimates() -> None:
    lines = evidence.gpu_estimates()
    assert "estimate" in lines[0] and "| 07 |" in "\n".join(lines) and "Estimated" in lines[-1]
