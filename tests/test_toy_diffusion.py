"""helpers/toy_diffusion.py is the model that notebook 02 writes out: its cells and the module give the same numbers."""

import json
import re
from typing import Any

import pytest
import torch

from helpers import toy_diffusion
from helpers.data.toy_2d import clover
from helpers.diffusion import DDPMPath, FlowPath
from pages.execute import NOTEBOOKS

WRITTEN_OUT = {  # notebook -> what it defines, and the module repeats
    "02": (
        *("dots", "sinusoidal_embedding", "DenoisingMLP", "train", "train_network", "make_denoiser"),
        "sliced_wasserstein",
    ),
    "03": ("exact_denoiser",),
}


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """What the notebooks define, from their own cells; the training set and the number of steps are small here."""
    defined: dict[str, Any] = {}
    for number, definitions in WRITTEN_OUT.items():
        names: dict[str, Any] = {}
        (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        exec(sources[0].partition("\nstyle()")[0], names)  # the imports
        names |= {"cat": clover(100).xy}
        for definition in definitions:
            (source,) = (text for text in sources if re.search(rf"^(def|class) {definition}\b", text, re.MULTILINE))
            exec(source.replace("steps = 1_500", "steps = 20"), names)
            assert names[definition].__module__ != toy_diffusion.__name__
            defined[definition] = names[definition]
    return defined


def test_training_gives_the_same_losses_and_the_same_network(shown: dict[str, Any]) -> None:
    points = clover(500)
    for prediction_type, path in (("epsilon", DDPMPath.cosine()), ("velocity", FlowPath())):
        arguments = (prediction_type, path, points.xy)
        expected, losses = shown["train_network"](*arguments, points.labels, 3)
        network = toy_diffusion.train_network(*arguments, 20, points.labels, 3)
        assert len(losses) == 20 and list(network.state_dict()) == list(expected.state_dict())
        for weight, expected_weight in zip(network.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(weight, expected_weight)
        torch.manual_seed(0)
        fresh = toy_diffusion.DenoisingMLP(3)
        repeated = list(toy_diffusion.train(fresh, points.xy, path, prediction_type, 20, points.labels))
        assert repeated == pytest.approx(losses)


@pytest.mark.parametrize("label", [None, 1])
def test_denoisers_predict_the_same(shown: dict[str, Any], label: int | None) -> None:
    torch.manual_seed(1)
    network = toy_diffusion.DenoisingMLP(classes=2)
    x = torch.randn(7, 2)
    for prediction_type, path in (("v", DDPMPath.cosine()), ("velocity", FlowPath())):
        expected = shown["make_denoiser"](network, prediction_type, path, label)(x, 0.3)
        denoised = toy_diffusion.make_denoiser(network, prediction_type, path, label)(x, 0.3)
        torch.testing.assert_close(denoised, expected)


def test_exact_denoiser_and_distance_are_the_notebooks(shown: dict[str, Any]) -> None:
    data = clover(200).xy
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    for path in (DDPMPath.cosine(), FlowPath()):
        expected = shown["exact_denoiser"](data, path)(x, 0.4)
        torch.testing.assert_close(toy_diffusion.exact_denoiser(data, path)(x, 0.4), expected)
    distance = toy_diffusion.sliced_wasserstein(x, data)
    assert distance == shown["sliced_wasserstein"](x, data) > 0 == toy_diffusion.sliced_wasserstein(x, x)


def test_dots_are_plotted_as_in_the_notebook(shown: dict[str, Any]) -> None:
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2)
    for panel, dots in zip(panels, (shown["dots"], toy_diffusion.dots), strict=True):
        dots(panel, torch.zeros(3, 2), "three", limit=2, color="0.5")
    first, second = ((panel.get_title(), panel.get_xlim(), panel.get_ylim(), panel.axison) for panel in panels)
    assert first == second == ("three", (-2, 2), (-2, 2), False)
    plt.close(figure)
