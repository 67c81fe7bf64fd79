"""The mistakes of "Break it": each changes the image in the way that the page says, and nothing else."""

import torch

from pages.live.node import Engine

CAPTION = "a striped orange cat with green eyes on a blue background"
REQUEST = {"prompt": CAPTION, "negativePrompt": "", "label": -1, "seed": 7, "sampler": "dpm_solver_pp_2m", "steps": 4}


def _generate(engine: Engine, name: str, scale: float, fault: str = "") -> torch.Tensor:
    return engine.generate(name, **REQUEST, scale=scale, fault=fault)


def test_range_makes_the_dark_half_black(engine: Engine) -> None:
    right = _generate(engine, "own", 2)
    broken = _generate(engine, "own", 2, "range")
    torch.testing.assert_close(broken, 2 * right.clamp(min=0) - 1)


def test_scaling_keeps_shapes_and_loses_contrast(engine: Engine) -> None:
    for name in ("own", "sd1"):
        right = _generate(engine, name, 2)
        broken = _generate(engine, name, 2, "scaling")
        assert torch.corrcoef(torch.stack([right.flatten(), broken.flatten()]))[0, 1] > 0.5
        assert broken.std() < 0.8 * right.std()


def test_uniform_noise_shifts_the_whole_image(engine: Engine) -> None:
    assert _generate(engine, "pixels", 2, "noise").mean() > _generate(engine, "pixels", 2).mean() + 0.3


def test_without_clipping_guidance_overexposes(engine: Engine) -> None:
    assert _generate(engine, "pixels", 6, "unclipped").std() > 1.1 * _generate(engine, "pixels", 6).std()


def test_swapped_captions_lead_away(engine: Engine) -> None:
    """At scale 1 only the first caption counts: swapped, the image is that of an empty caption."""
    swapped = _generate(engine, "own", 1, "swapped")
    empty = engine.generate("own", **REQUEST | {"prompt": ""}, scale=1)
    torch.testing.assert_close(swapped, empty)


def test_a_wrong_time_spoils_the_image(engine: Engine) -> None:
    for name in ("own", "sd1"):
        assert (_generate(engine, name, 2, "time") - _generate(engine, name, 2)).abs().mean() > 0.1


def test_classes_that_were_never_dropped_spoil_guidance_alone(engine: Engine) -> None:
    request = REQUEST | {"label": 0}
    plain, strong = (engine.generate("animals", **request, scale=scale) for scale in (1, 7))
    assert torch.equal(engine.generate("animals", **request, scale=1, fault="dropout"), plain)
    assert engine.generate("animals", **request, scale=7, fault="dropout").std() > 1.2 * strong.std()
    assert torch.equal(engine.generate("animals", **request, scale=7), strong), "the network is as it was"
