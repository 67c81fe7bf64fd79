"""A training in one process and in several: shares of a batch, and the stand-in for accelerate's Accelerator."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers.training import TrainConfig, train
from helpers.training.processes import SingleProcess, process_share


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_make_up_the_batch_and_have_no_row_in_common(processes):
    batch = torch.arange(12).unflatten(0, (6, 2))
    accelerators = [SimpleNamespace(process_index=i, num_processes=processes) for i in range(processes)]
    shares = [process_share(accelerator, batch) for accelerator in accelerators]
    assert all(len(share) == 6 // processes for share in shares)
    assert torch.equal(torch.cat(shares).sort(dim=0).values, batch)


def test_one_process_has_the_whole_batch():
    batch = torch.randn(5, 3)
    assert torch.equal(process_share(SingleProcess(), batch), batch)


def test_the_loop_calls_the_accelerator_for_what_several_processes_share():
    """And only for that: everything else is the same in one process."""
    calls = []

    class Recording(SingleProcess):
        def prepare(self, model, optimizer):
            calls.append("prepare")
            return super().prepare(model, optimizer)

        def backward(self, loss):
            calls.append("backward")
            super().backward(loss)

        def reduce(self, tensor, reduction="mean"):
            calls.append(f"reduce {reduction}")
            return 2 * tensor  # as if another process's loss were three times this one's

    def loss_fn(model, generator):
        return model(torch.ones(4, 1)).square().flatten() + 1, None

    model = nn.Linear(1, 1)
    alone = [state.loss for state in train(model, loss_fn, TrainConfig(steps=1))]
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    (state,) = train(model, loss_fn, TrainConfig(steps=1), accelerator=Recording())
    assert calls == ["prepare", "backward", "reduce mean"]
    assert state.loss == 2.0 and len(alone) == 1
