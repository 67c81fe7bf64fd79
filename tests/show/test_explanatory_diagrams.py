"""The small diagrams: what their descriptions claim is so, and their numbers are the package's."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.diffusion import Denoised, FlowPath, apply_guidance
from helpers.diffusion.samplers import SAMPLERS
from helpers.scoring.precision_recall import precision_recall
from helpers.show.diagrams import shape_text
from helpers.show.figures import SHARPNESS
from helpers.tiny_sd.model import TinySD
from pages.build import IMAGES
from pages.execute import NOTEBOOKS
from pages.pictures import course_map, diffusion, neighbours, tiny_unet, vision_language
from pages.pictures.drawing import BLUE, WIDTH
from pages.prose import links

NOTEBOOK_PATHS = {path.stem[:2]: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
LESSONS = {number: NOTEBOOK_PATHS[number] for number in course_map.SUBJECTS}
MOST_BYTES = 60_000
BLANK = np.zeros((3, 16, 16), dtype=np.uint8)
THUMBNAILS = course_map.Thumbnails([BLANK] * 3, BLANK, BLANK, BLANK)


@cache
def markdown(notebook: str) -> list[str]:
    cells = json.loads(LESSONS[notebook].read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


@pytest.mark.parametrize("notebook", LESSONS)
def test_every_notebook_shows_its_own_map(notebook: str) -> None:
    image = f"![{course_map.description(notebook)}](../00_assets/image/map_{notebook}.png)"
    cells = markdown(notebook) if notebook == "00" else markdown(notebook)[:1]  # 00 shows it at its end
    maps = [line for text in cells for line in text.splitlines() if "/map_" in line]
    assert maps == [image]


@pytest.mark.parametrize("notebook", LESSONS)
def test_the_map_colours_what_its_description_says(notebook: str) -> None:
    canvas = course_map.draw(notebook, THUMBNAILS)
    _, *strong = [text.get_text() for text in canvas.axes.texts if text.get_weight() == "bold"]
    names = {"time, condition": "condition", "vision-language: image → text": "vision-language"}
    assert {names.get(text, text) for text in strong} == set(course_map.SUBJECTS[notebook])
    assert canvas.axes.texts[0].get_color() == BLUE


def diagrams() -> list[str]:
    """The files that the notebooks show and that are diagrams of this kind."""
    used = {link.rpartition("/")[2] for name in LESSONS for text in markdown(name) for link in links(text)}
    return sorted(name for name in used if name.startswith(("map_", "diagram_")))


@pytest.mark.parametrize("name", diagrams())
def test_a_diagram_is_as_wide_as_the_page_and_small(name: str) -> None:
    path = IMAGES / name
    with Image.open(path) as image:
        assert image.width == WIDTH * SHARPNESS and image.mode == "P"
    assert path.stat().st_size <= MOST_BYTES


def test_every_drawn_diagram_is_shown() -> None:
    stored = {path.name for pattern in ("map_*.png", "diagram_*.png") for path in IMAGES.glob(pattern)}
    assert stored == set(diagrams())


def test_the_chain_leads_from_the_image_to_noise() -> None:
    states = [image.astype(float).ravel() for image in diffusion.noisy_states(size=64)]
    correlations = [np.corrcoef(states[0], state)[0, 1] for state in states]
    assert correlations[0] == pytest.approx(1)
    assert all(later < earlier for earlier, later in zip(correlations, correlations[1:], strict=False))
    assert abs(correlations[-1]) < 0.1


def test_guidance_is_the_package_s_and_overshoots_as_described() -> None:
    cloud = diffusion.clover(1500)
    points = diffusion.guided_predictions(cloud)
    unconditional, conditional = (torch.from_numpy(points[scale]) for scale in (0, 1))
    for scale, point in points.items():
        assert torch.allclose(apply_guidance(conditional, unconditional, scale), torch.from_numpy(point), atol=1e-5)
    direction = points[1] - points[0]
    leaf = cloud.xy[cloud.labels == diffusion.LEAF].numpy()
    along = leaf @ direction
    assert points[2] @ direction < np.quantile(along, 0.95), "still on the leaf"
    assert points[4] @ direction > along.max(), "beyond the tip"


@pytest.mark.parametrize(("index", "name"), [(0, "euler"), (1, "heun")])
def test_a_drawn_step_is_that_of_the_sampler(index: int, name: str) -> None:
    _, t, end = diffusion.TIMES
    curve = diffusion.solver_steps(0.9, t, end, 0.5, 0.8)[index].curve
    (step,) = SAMPLERS[name](exact_denoiser, torch.tensor([0.9]).double(), torch.tensor([t, end]), FlowPath())
    assert curve[-1, 1] == pytest.approx(step.x.item(), abs=1e-5)


def exact_denoiser(x: torch.Tensor, t: float) -> Denoised:
    x0 = torch.tensor([diffusion.predict_x0(x.item(), float(t))]).double()
    return Denoised(x0, (x - (1 - t) * x0) / t)


def test_the_drawn_step_of_dpm_solver_is_that_of_the_sampler() -> None:
    before, t, end = diffusion.TIMES
    times = torch.tensor([before, t, end])
    x = torch.tensor([diffusion.START]).double()
    first, second = SAMPLERS["dpm_solver_pp_2m"](exact_denoiser, x, times, FlowPath())
    remembered = diffusion.predict_x0(diffusion.START, before)
    curve = diffusion.solver_steps(first.x.item(), t, end, remembered, before)[2].curve
    assert curve[-1, 1] == pytest.approx(second.x.item(), abs=1e-5)


def test_the_solvers_errors_are_in_the_described_order() -> None:
    before, t, end = diffusion.TIMES
    x = diffusion.exact_path(diffusion.START, before, t)[-1, 1]
    target = diffusion.exact_path(x, t, end)[-1, 1]
    steps = diffusion.solver_steps(x, t, end, diffusion.predict_x0(diffusion.START, before), before)
    euler, heun, dpm = (abs(step.curve[-1, 1] - target) for step in steps)
    assert heun < dpm < 0.3 * euler


def test_the_discs_are_those_of_precision_and_recall() -> None:
    real, generated = neighbours.point_sets()
    scores = precision_recall(real, generated, k=neighbours.NEIGHBOURS)
    hit = neighbours.inside(generated, real)
    assert hit.float().mean().item() == pytest.approx(scores.precision)
    assert neighbours.inside(real, generated).float().mean().item() == pytest.approx(scores.recall)
    assert not hit[-4:].any(), "the group apart from the data"
    assert not neighbours.inside(real, generated)[-5:].any(), "the group that is not covered"


def test_clip_compares_and_siglip_does_not() -> None:
    similarities = vision_language.SIMILARITIES
    changed = similarities.clone()
    changed[0, 3] = 0.6
    clip, siglip = vision_language.clip_shares, vision_language.siglip_shares
    assert torch.allclose(clip(similarities).sum(dim=1), torch.ones(4))
    assert clip(changed)[0, 0] < clip(similarities)[0, 0] and siglip(changed)[0, 0] == siglip(similarities)[0, 0]
    own = torch.eye(4, dtype=torch.bool)
    assert (siglip(similarities)[own] > 0.5).all() and (siglip(similarities)[~own] < 0.5).all()


def test_the_unet_s_shapes_are_those_of_a_forward_pass() -> None:
    model = TinySD.from_weights("tiny_sd_pixels")
    shapes: set[str] = set()

    def record(part: torch.nn.Module, inputs: tuple, output: object) -> None:
        tensors = output if isinstance(output, list) else [output]
        shapes.update(shape_text(x.shape) for x in tensors if isinstance(x, torch.Tensor) and x.ndim == 4)

    hooks = [part.register_forward_hook(record) for part in model.unet.modules()]
    canvas = tiny_unet.draw(model)
    for hook in hooks:
        hook.remove()
    boxes = [text.get_text() for text in canvas.axes.texts if text.get_text().count(" × ") == 2]
    outside = {"3 × 64 × 64", "48 × 16 × 16", "20 × 32 × 32"}  # before the first layer, and between two
    assert len(boxes) >= 10
    assert {text for text in boxes if ":" not in text} - outside <= shapes
