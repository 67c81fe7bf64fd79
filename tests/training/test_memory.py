"""The memory of a training step: by hand for two layers, and the same with shapes alone as with numbers."""

import torch
from torch import nn

from helpers.tiny_sd.unet import TinyUNet, UNetConfig
from helpers.training.memory import training_memory


def test_two_layers_by_hand():
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 3))
    x = torch.randn(7, 10)
    memory = training_memory(model, lambda: model(x))
    weights = 4 * (10 * 20 + 20 + 20 * 3 + 3)
    # the first layer keeps its input, tanh its answer, which is also what the last layer keeps
    assert memory == (weights, weights, 2 * weights, weights, 4 * 7 * (10 + 20))
    assert memory.total == 5 * weights + 4 * 7 * 30


def test_activations_grow_with_the_batch_and_weights_do_not():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3))
    single, four = (training_memory(model, lambda n=n: model(torch.zeros(n, 3, 16, 16))) for n in (1, 4))
    assert four.activations == 4 * single.activations and four.weights == single.weights


def test_shapes_alone_weigh_as_much_as_numbers_or_a_little_more():
    config = UNetConfig(
        channels=4, patch=2, widths=(16, 32), attention=(True, True), detail_channels=0, head_width=8, vocab_size=20
    )
    counted = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = TinyUNet(config)
            x = torch.zeros(3, 4, 16, 16)
            t = torch.zeros(3)
            counted.append(training_memory(model, lambda model=model, x=x, t=t: model(x, t)))
    assert counted[0][:4] == counted[1][:4]
    assert 1 <= counted[1].activations / counted[0].activations < 1.3, "attention counts its matrix there"
