"""What a text-to-image system can be asked for: a wish with every argument checked before any work is done.

Alphabet: B pictures, H W their size in pixels, C latent channels, h = H / factor, w = W / factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.diffusion.samplers import SAMPLERS


@dataclass(frozen=True)
class Limits:
    """What a request must respect: sizes that follow from a system's networks."""

    size: int  # pixels a side that it was trained on, and makes when nothing is said
    multiple: int  # heights and widths must be multiples of this many pixels
    downsampling_factor: int  # how many times smaller a latent is than the picture, per side
    latent_channels: int
    text_layers: int  # clip skip must leave one
    largest: int | None = None  # pixels a side, where there is a limit


class Request:
    """A checked wish: every bad argument is refused here, before any work is done."""

    def __init__(
        self,
        limits: Limits,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        *,
        steps: int = 50,
        guidance_scale: float = 7.5,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        num_images: int = 1,
        sampler: str = "ddim",
        init_image: Any = None,
        strength: float = 0.8,
        mask_image: Any = None,
        clip_skip: int = 0,
    ):
        """Arguments as for a system's `generate`."""
        self.steps = within("steps", steps, 1, 999, int)
        self.clip_skip = within("clip_skip", clip_skip, 0, limits.text_layers - 1, int)
        self.guidance_scale = within("guidance_scale", guidance_scale, 0, 1000, float)
        seed = within("seed", seed, 0, 2**63 - 1001, int)
        each = within("num_images", num_images, 1, 1000, int)
        strength = within("strength", strength, 0, 1, float)
        if sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
        if mask_image is not None and init_image is None:
            raise ValueError("mask_image needs an init_image: the picture whose other parts are kept")
        self.prompts = texts("prompt", prompt, each)
        self.negatives = texts("negative_prompt", negative_prompt, each, like=self.prompts)
        self.picture = None if init_image is None else picture_tensor(init_image)[None]  # (1, 3, H, W)
        self.mask = None if mask_image is None else mask_tensor(mask_image)[None]  # (1, 1, H, W)
        self.limits = limits
        self.sampler = sampler
        self.seeds = [seed + i for i in range(len(self.prompts))]
        self.skipped = 0 if self.picture is None else self.steps - round(self.steps * strength)
        own = self.picture.shape[2:] if self.picture is not None else (limits.size, limits.size)
        self.size = (own[0] if height is None else height, own[1] if width is None else width)
        self._check_sizes()

    def _check_sizes(self) -> None:
        multiple = self.limits.multiple
        for name, side in zip(("height", "width"), self.size, strict=True):
            if not isinstance(side, Integral) or side < multiple or side % multiple:
                whose = " (init_image's)" if self.picture is not None and side in self.picture.shape[2:] else ""
                raise ValueError(f"{name} must be a multiple of {multiple} pixels, got {side!r}{whose}")
            if self.limits.largest and side > self.limits.largest:
                raise ValueError(f"{name} must be at most {self.limits.largest} pixels, got {side}")
        for name, image in (("init_image", self.picture), ("mask_image", self.mask)):
            if image is not None and tuple(image.shape[2:]) != self.size:
                there, wanted = (f"{w}x{h}" for h, w in (image.shape[2:], self.size))
                raise ValueError(f"{name} is {there} pixels (width x height), the picture {wanted}: resize one")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        factor = self.limits.downsampling_factor
        return self.limits.latent_channels, self.size[0] // factor, self.size[1] // factor

    def latent_mask(self) -> Tensor:
        """(1, 1, h, w): 1 where any pixel of the position is to be redrawn."""
        return F.max_pool2d((self.mask > 0.5).float(), self.limits.downsampling_factor)

    def pasted(self, pictures: Tensor) -> Tensor:
        """The pictures, with what the mask protects put back from the original, pixel for pixel."""
        return pictures if self.mask is None else torch.lerp(self.picture, pictures, self.mask)


def picture_tensor(image: Any) -> Tensor:
    """A PIL picture, or a tensor (3, H, W) in [-1, 1], as that tensor.

    Raises:
        TypeError, ValueError: for anything else; it says what was got.
    """
    if hasattr(image, "convert"):
        return _pixels(image, "RGB") / 127.5 - 1
    _refuse_tensor("init_image", image, "(3, H, W) in [-1, 1]")
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point() or not image.abs().max() <= 1.0001:
        raise ValueError(
            f"init_image must be (3, H, W) floats in [-1, 1], got {image.dtype} {tuple(image.shape)}, "
            f"values up to {image.abs().max().item():.3g}"
        )
    return image.float().cpu()


def mask_tensor(mask: Any) -> Tensor:
    """A PIL picture, or a tensor (H, W) in [0, 1], as (1, H, W). Raises as `picture_tensor`."""
    if hasattr(mask, "convert"):
        return _pixels(mask, "L") / 255
    _refuse_tensor("mask_image", mask, "(H, W) in [0, 1]")
    if mask.ndim != 2 or not (0 <= mask.min() and mask.max() <= 1):
        raise ValueError(f"mask_image must be (H, W) in [0, 1], 1 where to redraw, got {tuple(mask.shape)}")
    return mask.float().cpu()[None]


def _pixels(image: Any, mode: str) -> Tensor:
    """A PIL picture's numbers, 0 to 255: (C, H, W)."""
    pixels = torch.from_numpy(np.array(image.convert(mode))).float()
    return pixels.reshape(image.height, image.width, -1).permute(2, 0, 1)


def _refuse_tensor(name: str, image: Any, wanted: str) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"{name} must be a PIL picture or a tensor {wanted}, got {type(image).__name__}")
    if not image.numel() or image.isnan().any():
        raise ValueError(f"{name} is empty or holds NaN")


def texts(name: str, given: str | Sequence[str], each: int, like: Sequence[str] | None = None) -> list[str]:
    """One text per picture: each given one so often, or a single one for all that `like` has. Raises ValueError."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} must be a text or a list of texts, got {given!r}")
    if like is not None and len(texts) == 1:
        return list(texts) * len(like)
    texts = [text for text in texts for _ in range(each)]
    if like is not None and len(texts) != len(like):
        raise ValueError(f"one {name} for all or one per prompt: got {len(texts) // each}, prompts {len(like) // each}")
    return texts


def within(name: str, value: Any, low: float, high: float, kind: type) -> Any:
    """The number as `kind`, int or float. Raises ValueError where it is none, or outside [low, high]."""
    number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise ValueError(f"{name} must be a {'whole ' * (kind is int)}number from {low} to {high}, got {value!r}")
    return kind(value)
