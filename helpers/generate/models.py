"""Every model that generates images, under one interface: how it is found and loaded, and what it can do.

A model is named by its weights in 00_assets/weights, by a file or folder, or by `sd1:` or `sd3:` and a repository of
the hub. Which options it has, and their defaults, is read off its pipeline's signature.
"""

import inspect
import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor

from helpers.data.captions import tokenize
from helpers.data.sizes import height_and_width, size_text
from helpers.devices import check_device
from helpers.diffusion import Step
from helpers.files import portable_name
from helpers.generate.inputs import Inputs
from helpers.generate.settings import Settings
from helpers.sd1.pipeline import StableDiffusion1
from helpers.sd3.pipeline import StableDiffusion3
from helpers.sd3.request import SD3Request
from helpers.text_to_image.input_images import composite
from helpers.text_to_image.request import Request
from helpers.text_to_image.weighted_prompts import parse_weights
from helpers.tiny_sd.codecs import LatentCodec
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.unet import NO_CLASS
from helpers.training.folder import TRAINED_WEIGHTS
from helpers.weights import TRAINING_COMMANDS, checksum, read_config, read_metadata, weights_path
from helpers.weights.pretrained import PRECISIONS
from helpers.weights.single_files import tensor_names


@dataclass(frozen=True)
class System:
    """A family of models with one pipeline."""

    title: str
    pipeline: Callable[..., Any]  # its keyword arguments are the options, with their defaults

    def default(self, option: str) -> Any:
        """The pipeline's default of an option."""
        return inspect.signature(self.pipeline).parameters[option].default

    def has(self, option: str) -> bool:
        """Whether the pipeline has an option."""
        return option in inspect.signature(self.pipeline).parameters


SYSTEMS = {
    "tiny_sd": System("Tiny Stable Diffusion", TinySD.sample_steps),
    "sd1": System("Stable Diffusion 1", StableDiffusion1.generate),
    "sd3": System("Stable Diffusion 3", StableDiffusion3.generate),
}

# What the notebooks use with weights that ship, where the pipeline's defaults are made for others
RECOMMENDED: dict[str, dict[str, Any]] = {
    "tiny_sd_animals": {"steps": 16, "guidance_scale": 7.0},
    "tiny_sd_animals_128": {"steps": 16, "guidance_scale": 4.0},
    "tiny_sd_animals_pixels": {"steps": 16, "guidance_scale": 5.0},
    "tiny_sd_animals_own": {"steps": 16, "guidance_scale": 5.0},
    "sd1": {"steps": 25, "guidance_scale": 4.0},
    "sd3": {"steps": 20, "guidance_scale": 4.0},
}


class Model(ABC):
    """Loaded weights, ready to generate."""

    def __init__(self, name: str, system: System, network: Any, device: str, precision: str, licence: str = ""):
        """
        Args:
            name: as settings record it.
            network: of the system.
            device: where it is.
            precision: a key of PRECISIONS.
            licence: of the weights, "" where they name none.
        """
        self.name = name
        self.system = system
        self.network = network
        self.device = device
        self.precision = precision
        self.licence = licence
        self.weights = checksum({key: tensor.cpu() for key, tensor in self.tensors().items()})

    def default(self, option: str) -> Any:
        """The value of an option that is not set."""
        return RECOMMENDED.get(self.name, {}).get(option, self.system.default(option))

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width of the training images in pixels."""

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors that an image depends on."""

    @abstractmethod
    def check(self, settings: Settings, inputs: Inputs) -> None:
        """Raise ValueError or TypeError for settings that the pipeline would refuse, before any work is done."""

    @abstractmethod
    def sample_steps(self, settings: Settings, inputs: Inputs) -> Iterator[Step]:
        """Yield the state after every step; raises as the pipeline does."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """A state (B, C, h, w) as images (B, 3, H, W) in [-1, 1]."""

    def finish(self, image: Tensor, inputs: Inputs) -> Tensor:
        """What is done to the decoded image (1, 3, H, W) at the end."""
        return image


class TinySDModel(Model):
    """Methods 1 to 3: a prompt is a caption where the network was trained with captions, else the name of a class.

    A caption that is just the name of a class also selects the class, if the captions are of your own images.
    """

    network: TinySD

    @property
    def size(self) -> tuple[int, int]:
        return self.network.height, self.network.width

    def tensors(self) -> Mapping[str, Tensor]:
        tensors = {f"unet.{name}": tensor for name, tensor in self.network.unet.state_dict().items()}
        codec = self.network.codec
        if isinstance(codec, LatentCodec):
            states = codec.autoencoder.state_dict()  # type: ignore[attr-defined]
            tensors |= {f"autoencoder.{name}": tensor for name, tensor in states.items()}
            tensors |= {"mean": codec.mean, "std": codec.std}
        return tensors

    def check(self, settings: Settings, inputs: Inputs) -> None:
        self.sample_steps(settings, inputs)  # checks its arguments at once and computes at the first step

    def sample_steps(self, settings: Settings, inputs: Inputs) -> Iterator[Step]:
        return self.network.sample_steps(
            **self._condition(settings.prompt),
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            sampler=settings.sampler,
            seed=settings.seed,
        )

    def decode(self, x: Tensor) -> Tensor:
        return self.network.codec.decode(x).float().cpu()

    def _condition(self, prompt: str) -> dict[str, Any]:
        class_names = {name.lower(): name for name in self.network.class_names}
        name = prompt.strip().lower()
        if self.network.unet.config.vocab_size:
            is_class = self.network.tokenizer is not None and name in class_names
            return {"prompts": [prompt]} | ({"labels": [class_names[name]]} if is_class else {})
        if name and name not in class_names:
            mentioned = [class_names[word] for word in name.split() if word in class_names]
            suggestion = mentioned or [class_names[close] for close in get_close_matches(name, class_names, 1)]
            raise ValueError(
                f"{self.name} was trained without captions, its prompts are classes: "
                f"{', '.join(self.network.class_names)}, or '' for any of them; got {prompt!r}"
                + (f". Did you mean {suggestion[0]!r}?" if suggestion else "")
            )
        return {"labels": [class_names[name] if name else NO_CLASS]}


class StableDiffusionModel(Model):
    """Stable Diffusion 1 and 3, the course's own and published ones."""

    network: StableDiffusion1 | StableDiffusion3
    is_ours = False  # whether a training command of the course wrote the weights

    @property
    def size(self) -> tuple[int, int]:
        return height_and_width(self.network.config.size)

    def tensors(self) -> Mapping[str, Tensor]:
        return self.network.state_dict()

    def default(self, option: str) -> Any:
        value = super().default(option)
        if value is None and isinstance(self.network, StableDiffusion3):
            return getattr(self.network.config, option, None)  # shift, steps, guidance_scale
        return value

    def check(self, settings: Settings, inputs: Inputs) -> None:
        if self.is_ours:
            _warn_of_unknown_words(self.name, settings)
        arguments = self._arguments(settings, inputs)
        if isinstance(self.network, StableDiffusion3):
            checked = SD3Request(self.network.config, self.network.encoders.t5 is not None, **arguments)
            self.network.times(checked.steps, checked.shift, checked.sigmas)
        else:
            request = Request(self.network.config.limits, **arguments)
            self.network.times(request.steps, request.sigmas)

    def sample_steps(self, settings: Settings, inputs: Inputs) -> Iterator[Step]:
        return self.network.sample_steps(**self._arguments(settings, inputs))

    def decode(self, x: Tensor) -> Tensor:
        return self.network.decode(x)

    def finish(self, image: Tensor, inputs: Inputs) -> Tensor:
        if inputs.init is None or inputs.mask is None:
            return image
        return composite(image, inputs.init, inputs.mask)

    def _arguments(self, settings: Settings, inputs: Inputs) -> dict[str, Any]:
        names = ["prompt", "negative_prompt", "steps", "guidance_scale", "sampler", "seed", "width", "height"]
        names += ["clip_skip", "shift", "strength", "weighted_prompts", "sigmas", "churn"]
        values = {name: getattr(settings, name) for name in names}
        arguments = {name: value for name, value in values.items() if value is not None}
        return arguments | {"init_image": inputs.init, "mask_image": inputs.mask}


def _warn_of_unknown_words(name: str, settings: Settings) -> None:
    """Warn of words that no caption of the synthetic faces has: a model trained on these gives them no meaning."""
    for text in (settings.prompt, settings.negative_prompt or ""):
        if settings.weighted_prompts:
            text = "".join(part.text for part in parse_weights(text))
        try:
            tokenize([text], length=len(text) + 1)
        except ValueError as error:
            warnings.warn(f"{name} was trained on captions of synthetic faces: {error}", stacklevel=3)


# --- finding and loading ----------------------------------------------------------------------------------------------


def shipped_models() -> dict[str, str]:
    """The names of the weights that ship and generate images, each with its system."""
    names = [name for name in TRAINING_COMMANDS if name.startswith(tuple(SYSTEMS)) and weights_path(name).is_file()]
    return {name: next(system for system in SYSTEMS if name.startswith(system)) for name in sorted(names)}


def describe(name: str) -> str:
    """One line about weights that ship: the system, what it was trained on, the size, what a prompt is."""
    config = read_config(name)
    metadata = read_metadata(name)
    system = SYSTEMS[shipped_models()[name]]
    codec = config.get("codec")
    method = "" if codec is None else f" in {_latents(codec)}"
    images = "photographs" if "photographs" in metadata else "synthetic faces"
    has_captions = codec is None or config["config"]["vocab_size"]
    prompts = "captions" if has_captions else ", ".join(config["class_names"])
    return f"{system.title}{method}; {images}, {size_text(config['size'])} pixels; prompts: {prompts}"


def _latents(codec: Any) -> str:
    names = {"pixels": "pixels", "pretrained": "pretrained latents", "own": "latents of its own"}
    return names[codec if isinstance(codec, str) else codec["method"]]


def load_model(source: str | Path, *, device: str = "cpu", precision: str = "fp32", **options: Any) -> Model:
    """Load a model by its name, its file or folder, or `sd1:` or `sd3:` and a repository of the hub.

    Args:
        source: for instance "tiny_sd_animals", "v1-5-pruned.safetensors", the folder of a training,
            or "sd1:stable-diffusion-v1-5/stable-diffusion-v1-5".
        device: "auto" or one of helpers.devices.DEVICES.
        precision: "fp32", or for published checkpoints "bf16" or "fp16".
        options: for published checkpoints, those of `from_checkpoint`, such as tokenizer= or variant=.

    Raises:
        FileNotFoundError, ValueError: where nothing is there, and as the loaders do.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    device = check_device(device)
    text = str(source)
    prefix, _, repository = text.partition(":")
    if prefix in ("sd1", "sd3") and repository:
        return _load_published(prefix, repository, text, device, precision, options)
    if text in shipped_models():
        return _load_trained(shipped_models()[text], text, device, precision)
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(_no_model(text))
    if path.is_dir() and (path / TRAINED_WEIGHTS).is_file():
        path = path / TRAINED_WEIGHTS
    system = trained_system(path)
    if system:
        return _load_trained(system, path, device, precision)
    return _load_published(published_system(path), path, portable_name(text), device, precision, options)


def _no_model(text: str) -> str:
    names = list(shipped_models())
    close = get_close_matches(text, names, 1)
    suggestion = f" Did you mean {close[0]}?" if close else ""
    return (
        f"there is no model {text!r}, neither among those that ship ({', '.join(names)}) nor as a file or folder."
        f"{suggestion} A repository of the hub is written sd1:OWNER/NAME or sd3:OWNER/NAME"
    )


def trained_system(path: Path) -> str | None:
    """The system of weights that a training command of the course wrote; None for other files."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        config = read_config(path)
    except ValueError:
        return None  # not ours, or without a configuration
    for key, system in (("objective", "tiny_sd"), ("unet", "sd1"), ("transformer", "sd3")):
        if key in config:
            return system
    raise ValueError(f"{path} holds weights of the course that generate no images from prompts")


def published_system(path: Path) -> str:
    """Whether a published checkpoint is Stable Diffusion 3; all else is left to the loader of Stable Diffusion 1."""
    if (path / "transformer").is_dir():
        return "sd3"
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    names = itertools.chain.from_iterable(map(tensor_names, files))
    return "sd3" if any("joint_blocks." in name for name in names) else "sd1"


def _load_trained(system: str, source: str | Path, device: str, precision: str) -> Model:
    if precision != "fp32":
        raise ValueError("precision is for published checkpoints: the course's own weights compute in fp32")
    name = source if isinstance(source, str) else portable_name(source)
    licence = read_metadata(source).get("licence", "")
    if system == "tiny_sd":
        return TinySDModel(name, SYSTEMS[system], TinySD.from_weights(source, device), device, precision, licence)
    loader = StableDiffusion1 if system == "sd1" else StableDiffusion3
    network = loader.from_weights(source, device=device)
    model = StableDiffusionModel(name, SYSTEMS[system], network, device, precision, licence)
    model.is_ours = True
    return model


def _load_published(
    system: str, source: str | Path, name: str, device: str, precision: str, options: Mapping[str, Any]
) -> Model:
    loader: Any = StableDiffusion1 if system == "sd1" else StableDiffusion3
    network = loader.from_checkpoint(source, dtype=PRECISIONS[precision], device=device, **options)
    return StableDiffusionModel(name, SYSTEMS[system], network, device, precision)
