"""The course on a device that refuses what Apple's GPUs refuse: every model generates, every kind of training runs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from helpers.course import begin
from helpers.devices import DEVICES, best_device, check_device
from helpers.diffusion import DDPMPath, FlowPath
from helpers.sd1.pipeline import StableDiffusion1
from helpers.sd3.pipeline import StableDiffusion3
from helpers.tiny_sd.model import TinySD
from tests.gpu_profile.emulated_gpu import emulated_cuda, emulated_mps, on_device

FAST = {"steps": 3, "progress": False}


@pytest.fixture
def mps() -> Iterator[None]:
    with emulated_mps():
        yield
    assert not torch.backends.mps.is_available()


def test_the_device_has_no_float64(mps) -> None:
    x = torch.ones(3, device="mps")
    assert (x.device.type, x.is_mps, x.is_cuda, x.is_cpu) == ("mps", True, False, False)
    for make in (
        lambda: x.double(),
        lambda: x.to(torch.float64),
        lambda: torch.ones(3, dtype=torch.float64).to("mps"),
        lambda: torch.ones(3, dtype=torch.float64, device="mps"),
        lambda: torch.from_numpy(np.ones(3)).to("mps"),
    ):
        with pytest.raises(TypeError, match="the MPS framework doesn't support float64"):
            make()
    with pytest.raises(NotImplementedError, match="linalg_eigh.*MPS"):
        torch.linalg.eigh(torch.eye(2, device="mps"))
    assert (x * torch.tensor(2.0, dtype=torch.float64)).dtype == torch.float32, "numbers mix, as everywhere"


def test_it_mixes_with_no_other_device(mps) -> None:
    with pytest.raises(RuntimeError, match="found at least two devices, mps:0 and cpu"):
        torch.ones(2, device="mps") + torch.ones(2)


def test_one_rule_chooses_the_device() -> None:
    assert best_device() == "cpu" or torch.cuda.is_available()
    with emulated_mps():
        assert (best_device(), check_device("auto"), check_device("cpu")) == ("mps", "mps", "cpu")
    with emulated_cuda():
        assert best_device() == "cuda"
    assert DEVICES[-1] == "cpu"


@pytest.mark.parametrize("name", ["mps", "xpu"])
def test_a_device_that_is_not_there_is_refused(name) -> None:
    with pytest.raises(ValueError, match=f"sees no device '{name}'"):
        check_device(name)
    with pytest.raises(ValueError, match="unknown device 'gpu': choose auto or one of cuda, mps, xpu, cpu"):
        check_device("gpu")


def test_the_gpu_profile_takes_it(mps) -> None:
    course = begin("gpu")
    assert course.device.type == "mps" and course.dtype == torch.float32


@pytest.mark.parametrize("path", [DDPMPath.cosine(), FlowPath(3.0)], ids=["ddpm", "flow"])
def test_times_on_the_device_give_coefficients_there(path, mps) -> None:
    t = torch.linspace(0, 1, 5)
    for ours, expected in zip(path.alpha_sigma(t.to("mps")), path.alpha_sigma(t), strict=True):
        assert on_device(ours) and torch.equal(ours.cpu(), expected)


@pytest.mark.parametrize("system", [StableDiffusion1, StableDiffusion3])
@pytest.mark.parametrize(
    "options",
    [{}, {"sampler": "lms"}, {"sigmas": "karras", "sampler": "euler", "churn": 1.0}, {"sampler": "ddpm"}],
    ids=["default", "lms", "karras", "ddpm"],
)
def test_stable_diffusion_generates_the_same_image(system, options) -> None:
    expected = system.from_weights().generate("a cat", seed=2, **FAST, **options)
    with emulated_mps():
        images = system.from_weights(device="mps").generate("a cat", seed=2, **FAST, **options)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("system", [StableDiffusion1, StableDiffusion3])
def test_inpainting_runs(system) -> None:
    known = torch.zeros(3, 64, 64)
    mask = torch.zeros(64, 64)
    mask[:32] = 1
    with emulated_mps():
        images = system.from_weights(device="mps").generate("a cat", init_image=known, mask_image=mask, **FAST)
    assert torch.equal(images[0, :, 32:], known[:, 32:])


@pytest.mark.parametrize("system", [StableDiffusion1, StableDiffusion3])
def test_offloading_to_the_cpu_changes_no_image(system) -> None:
    expected = system.from_weights().generate("a cat", seed=2, **FAST)
    with emulated_mps():
        model = system.from_weights().enable_cpu_offload("mps")
        images = model.generate("a cat", seed=2, **FAST)
        assert model.device.type == "mps"
        resting = [on_device(next(part.parameters())) for part in model.children()]
        assert resting.count(True) == 1, "only the part that worked last is still on the GPU"
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["tiny_sd_pixels", "tiny_sd_own", "tiny_sd_animals"])
def test_a_tiny_stable_diffusion_generates_the_same_image(name) -> None:
    expected = TinySD.from_weights(name).generate(["cat"], seed=2, steps=3)
    with emulated_mps():
        images = TinySD.from_weights(name, "mps").generate(["cat"], seed=2, steps=3)
    torch.testing.assert_close(images.cpu(), expected, atol=1e-4, rtol=0)


def test_paligemma_answers() -> None:
    from PIL import Image

    from helpers.ask import ask, load_model

    image = Image.new("RGB", (64, 64), "orange")
    (expected,) = ask("paligemma", image, "caption", progress=False)
    with emulated_mps():
        (answer,) = ask(load_model(device="mps"), image, "caption", progress=False)
    assert answer.text == expected.text


@pytest.mark.parametrize(
    "arguments",
    ["--method pixels", "--method pixels --objective epsilon", "--method own --autoencoder faces_autoencoder"],
)
def test_a_tiny_stable_diffusion_trains(arguments: str, tmp_path: Path, mps) -> None:
    from helpers.tiny_sd.train import main

    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate remembers the first device it has seen
    main([*arguments.split(), *f"--steps 2 --limit 64 --batch-size 8 --out {tmp_path / 'run'}".split()])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert (tmp_path / "run" / "weights.safetensors").is_file()
