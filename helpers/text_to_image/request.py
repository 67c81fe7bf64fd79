"""The arguments of a text-to-image pipeline, each checked before any work is done.

Alphabet: B images, H W their size in pixels, C latent channels, h = H / factor, w = W / factor.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from helpers.data.images import BadImageError, upright_mask, upright_rgb
from helpers.diffusion.samplers import check_sampler
from helpers.text_to_image.weighted_prompts import parse_weights


@dataclass(frozen=True)
class Limits:
    """What a request must respect: sizes that follow from a system's networks."""

    size: int  # pixels a side of the training images, and the default
    multiple: int  # heights and widths must be multiples of this many pixels
    downsampling_factor: int  # how many times smaller a latent is than the image, per side
    latent_channels: int
    text_layers: int  # clip skip must leave one
    largest: int | None = None  # pixels a side, where there is a limit


class Request:
    """The checked arguments of a pipeline's `generate`; making one raises ValueError or TypeError for a bad argument.

    Attributes:
        prompts, negative_prompts: B texts each.
        image, mask: (1, 3, H, W) in [-1, 1] and (1, 1, H, W) in [0, 1], of image-to-image and inpainting, or None.
        seeds: one per image.
        guided: whether classifier-free guidance changes anything.
        skipped_steps: how many first steps image-to-image leaves out.
        size: height and width in pixels.
    """

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
        weighted_prompts: bool = False,
    ):
        """Arguments as for a system's `generate`."""
        self.weighted_prompts = weighted_prompts
        self.limits = limits
        self.steps = check_integer("steps", steps, 1, 999)
        self.clip_skip = check_integer("clip_skip", clip_skip, 0, limits.text_layers - 1)
        self.guidance_scale = check_number("guidance_scale", guidance_scale, 0, 1000)
        self.guided = self.guidance_scale != 1
        seed = check_integer("seed", seed, 0, 2**63 - 1001)
        self.images_per_prompt = check_integer("num_images", num_images, 1, 1000)
        strength = check_number("strength", strength, 0, 1)
        check_sampler(sampler)
        self.sampler = sampler
        if mask_image is not None and init_image is None:
            raise ValueError("mask_image needs an init_image: the image whose other parts are kept")
        self.prompts = repeat_prompts("prompt", prompt, self.images_per_prompt)
        self.negative_prompts = self.match_prompts("negative_prompt", negative_prompt)
        if weighted_prompts:
            for text in (*self.prompts, *self.negative_prompts):
                parse_weights(text)
        self.seeds = [seed + i for i in range(len(self.prompts))]
        self.image = None if init_image is None else image_tensor(init_image)[None]
        self.mask = None if mask_image is None else mask_tensor(mask_image)[None]
        self.skipped_steps = 0 if self.image is None else self.steps - round(self.steps * strength)
        default_height, default_width = (limits.size, limits.size) if self.image is None else self.image.shape[2:]
        self.size = (default_height if height is None else height, default_width if width is None else width)
        self._check_sizes()

    def match_prompts(self, name: str, prompts: str | Sequence[str]) -> list[str]:
        """One text per image: one for all, or as many as there are prompts. Raises ValueError for other numbers."""
        texts = _list_of_texts(name, prompts)
        if len(texts) == 1:
            return texts * len(self.prompts)
        if len(texts) * self.images_per_prompt != len(self.prompts):
            raise ValueError(
                f"one {name} for all or one per prompt: got {len(texts)}, "
                f"prompts {len(self.prompts) // self.images_per_prompt}"
            )
        return repeat_prompts(name, texts, self.images_per_prompt)

    def _check_sizes(self) -> None:
        multiple = self.limits.multiple
        for name, side in zip(("height", "width"), self.size, strict=True):
            if not isinstance(side, Integral) or side < multiple or side % multiple:
                origin = " (init_image's)" if self.image is not None and side in self.image.shape[2:] else ""
                raise ValueError(f"{name} must be a multiple of {multiple} pixels, got {side!r}{origin}")
            if self.limits.largest and side > self.limits.largest:
                raise ValueError(f"{name} must be at most {self.limits.largest} pixels, got {side}")
        height, width = self.size
        for name, image in (("init_image", self.image), ("mask_image", self.mask)):
            if image is not None and tuple(image.shape[2:]) != self.size:
                raise ValueError(
                    f"{name} is {image.shape[3]}x{image.shape[2]} pixels (width x height), "
                    f"the output {width}x{height}: resize one"
                )
        if self.mask is not None and not self.latent_mask.any():
            warnings.warn(
                "no value of mask_image is above 0.5, so nothing is regenerated: 1 or white marks what to regenerate",
                stacklevel=4,
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        factor = self.limits.downsampling_factor
        return self.limits.latent_channels, self.size[0] // factor, self.size[1] // factor

    @property
    def latent_mask(self) -> Tensor:
        """(1, 1, h, w): 1 where any pixel of the position is to be regenerated, 0 where all are kept."""
        if self.mask is None:
            raise ValueError("this request has no mask")
        return F.max_pool2d((self.mask > 0.5).float(), self.limits.downsampling_factor)


# --- images ---------------------------------------------------------------------------------------------------------


def composite(images: Tensor, init_image: Any, mask_image: Any) -> Tensor:
    """Blend the generated images (B, 3, H, W) with the original by the mask: what it protects is kept exactly."""
    return torch.lerp(image_tensor(init_image), images, mask_tensor(mask_image))


def image_tensor(image: Any) -> Tensor:
    """Convert a PIL image, or a tensor (3, H, W) in [-1, 1], to that tensor.

    A PIL image is read as `helpers.data.images.upright_rgb` does: turned upright, transparent parts on white.

    Raises:
        TypeError, ValueError: for anything else; the message says what it got.
    """
    if isinstance(image, Image.Image):
        return _read_pixels("init_image", upright_rgb, image).permute(2, 0, 1) / 127.5 - 1
    _check_tensor("init_image", image, "(3, H, W) in [-1, 1]")
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point() or not image.abs().max() <= 1.0001:
        raise ValueError(
            f"init_image must be (3, H, W) floats in [-1, 1], got {image.dtype} {tuple(image.shape)}, "
            f"values up to {image.abs().max().item():.3g}"
        )
    return image.float().cpu()


def mask_tensor(mask: Any) -> Tensor:
    """Convert a PIL image, or a tensor (H, W) in [0, 1], to (1, H, W). Raises as `image_tensor`.

    A PIL image is read as `helpers.data.images.upright_mask` does: 0 and 1 alone, or grey levels of 8 or 16 bits.
    """
    if isinstance(mask, Image.Image):
        return _read_pixels("mask_image", upright_mask, mask)[None]
    _check_tensor("mask_image", mask, "(H, W) in [0, 1]")
    mask = mask.float().cpu()
    if mask.ndim != 2 or not (0 <= mask.min() and mask.max() <= 1):
        raise ValueError(
            f"mask_image must be (H, W) in [0, 1], 1 where to redraw, got {tuple(mask.shape)}, "
            f"values {mask.min().item():.3g} to {mask.max().item():.3g}"
        )
    return mask[None]


def _read_pixels(name: str, read: Callable[[Image.Image], Any], image: Image.Image) -> Tensor:
    """The values of a PIL image as floats. Raises ValueError, naming the argument, where it cannot be used."""
    try:
        return torch.from_numpy(np.array(read(image))).float()
    except BadImageError as error:
        raise ValueError(f"{name} cannot be used: {error}. Pass another image, or a tensor") from error


def _check_tensor(name: str, image: Any, expected: str) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"{name} must be a PIL image or a tensor {expected}, got {type(image).__name__}")
    if not image.numel() or image.isnan().any():
        raise ValueError(f"{name} is empty or holds NaN")


# --- texts and numbers ----------------------------------------------------------------------------------------------


def repeat_prompts(name: str, prompts: str | Sequence[str], images_per_prompt: int) -> list[str]:
    """One text per image: each text as often as there are images per prompt. Raises ValueError for other things."""
    repeated = []
    for text in _list_of_texts(name, prompts):
        repeated += [text] * images_per_prompt
    return repeated


def _list_of_texts(name: str, prompts: str | Sequence[str]) -> list[str]:
    texts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} must be a text or a list of texts, got {prompts!r}")
    return list(texts)


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """The value as an int. Raises ValueError where it is not a whole number, or outside [low, high]."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not low <= int(value) <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return int(value)


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """The value as a float. Raises ValueError where it is not a number, or outside [low, high]."""
    if not isinstance(value, Real) or isinstance(value, bool) or not low <= float(value) <= high:
        raise ValueError(f"{name} must be a number from {low} to {high}, got {value!r}")
    return float(value)
