"""The arguments of a text-to-image pipeline, each checked before any work is done.

Alphabet: B images, H W their size in pixels, C latent channels, h = H / factor, w = W / factor.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.diffusion.noise_levels import check_sigmas
from helpers.diffusion.samplers import check_sampler
from helpers.text_to_image.embeds import check_tensor, count_rows, repeat_rows
from helpers.text_to_image.input_images import composite, fit_all, image_list, image_tensor, mask_tensor
from helpers.text_to_image.weighted_prompts import parse_weights


@dataclass(frozen=True)
class Limits:
    """What a request must respect: sizes that follow from a system's networks."""

    size: int  # pixels a side of the training images, and the default
    multiple: int  # heights and widths must be multiples of this many pixels
    downsampling_factor: int  # how many times smaller a latent is than the image, per side
    latent_channels: int
    text_layers: int  # clip skip must leave one
    text_width: int  # of the states that stand for a prompt
    largest: int | None = None  # pixels a side, where there is a limit


class Request:
    """The checked arguments of a pipeline's `generate`; making one raises ValueError or TypeError for a bad argument.

    Attributes:
        prompts, negative_prompts: B texts each; empty ones where embeddings take their place.
        prompt_embeds, negative_prompt_embeds: embeddings of B prompts, or None.
        image, mask: (1, 3, H, W) in [-1, 1] and (1, 1, H, W) in [0, 1], of image-to-image and inpainting, or None;
            B of them where every prompt has its own.
        seeds: one per image.
        guided: whether classifier-free guidance changes anything.
        skipped_steps: how many first steps image-to-image leaves out.
        size: height and width in pixels.
    """

    def __init__(
        self,
        limits: Limits,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] = "",
        *,
        prompt_embeds: Any = None,
        negative_prompt_embeds: Any = None,
        steps: int = 50,
        guidance_scale: float = 7.5,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        num_images: int = 1,
        sampler: str = "ddim",
        sigmas: str | Sequence[float] | None = None,
        churn: float = 0.0,
        init_image: Any = None,
        strength: float = 0.8,
        mask_image: Any = None,
        resize: bool = False,
        clip_skip: int = 0,
        weighted_prompts: bool = False,
    ):
        """Arguments as for a system's `generate`."""
        self.weighted_prompts = weighted_prompts
        self.limits = limits
        self.sigmas = check_sigmas(sigmas)
        self.steps = check_integer("steps", steps, 1, 999)
        if isinstance(self.sigmas, tuple):
            self.steps = check_integer("the number of sigmas", len(self.sigmas), 1, 999)
        self.clip_skip = check_integer("clip_skip", clip_skip, 0, limits.text_layers - 1)
        self.guidance_scale = check_number("guidance_scale", guidance_scale, 0, 1000)
        self.guided = self.guidance_scale != 1
        seed = check_integer("seed", seed, 0, 2**63 - 1001)
        self.images_per_prompt = check_integer("num_images", num_images, 1, 1000)
        strength = check_number("strength", strength, 0, 1)
        self.churn = check_number("churn", churn, 0, 1000)
        check_sampler(sampler, self.churn)
        self.sampler = sampler
        images = image_list("init_image", init_image)
        masks = image_list("mask_image", mask_image)
        if masks and not images:
            raise ValueError("mask_image needs an init_image: the image whose other parts are kept")
        self.prompt_embeds = self._repeat_embeds("prompt_embeds", prompt_embeds)
        self.prompts = self._prompts(prompt, len(images))
        self.negative_prompts = self.match_prompts("negative_prompt", negative_prompt)
        self.negative_prompt_embeds = self._match_embeds("negative_prompt_embeds", negative_prompt_embeds)
        if weighted_prompts:
            for text in (*self.prompts, *self.negative_prompts):
                parse_weights(text)
        self.seeds = [seed + i for i in range(len(self.prompts))]
        if resize and images:
            for name, side in (("height", height), ("width", width)):
                check_integer(name, limits.size if side is None else side, 1, 16384)
            images, masks = fit_all(images, masks, height, width, limits.multiple)
        self.image = self._one_or_all("init_image", [image_tensor(image) for image in images])
        self.mask = self._one_or_all("mask_image", [mask_tensor(mask) for mask in masks])
        self.skipped_steps = 0 if self.image is None else self.steps - round(self.steps * strength)
        default_height, default_width = (limits.size, limits.size) if self.image is None else self.image.shape[2:]
        self.size = (default_height if height is None else height, default_width if width is None else width)
        self._check_sizes()

    def _prompts(self, prompt: str | Sequence[str] | None, images: int) -> list[str]:
        """One text per image; one prompt, or one row of embeddings, serves any number of initial images."""
        embeds = self.prompt_embeds
        if prompt is None and embeds is None:
            raise ValueError("there is neither a prompt nor prompt_embeds: pass one of them")
        if prompt is not None and embeds is not None:
            raise ValueError("prompt_embeds stand in place of the prompt: pass prompt=None with them")
        texts = repeat_prompts("prompt", "" if prompt is None else prompt, self.images_per_prompt)
        if embeds is not None:
            texts = texts[:1] * count_rows(embeds)
        if images > 1 and len(texts) == self.images_per_prompt:
            texts *= images
            self.prompt_embeds = None if embeds is None else repeat_rows(embeds, images)
        return texts

    def check_embeds(self, name: str, embeds: Any) -> None:
        """Raise TypeError or ValueError unless these can stand for prompts."""
        check_tensor(name, embeds, "(B, N, D)", (None, None, self.limits.text_width))

    def _repeat_embeds(self, name: str, embeds: Any) -> Any:
        """Embeddings with a row for each image of each prompt, or None."""
        if embeds is None:
            return None
        self.check_embeds(name, embeds)
        return repeat_rows(embeds, self.images_per_prompt)

    def _match_embeds(self, name: str, embeds: Any) -> Any:
        """The same for embeddings of which one row may serve all prompts. Raises ValueError for other numbers."""
        embeds = self._repeat_embeds(name, embeds)
        if embeds is None or count_rows(embeds) == len(self.prompts):
            return embeds
        if count_rows(embeds) != self.images_per_prompt:
            rows = count_rows(embeds) // self.images_per_prompt
            prompts = len(self.prompts) // self.images_per_prompt
            raise ValueError(f"{name}: one row for all or one per prompt: got {rows}, prompts {prompts}")
        return repeat_rows(embeds, len(self.prompts) // self.images_per_prompt)

    def _one_or_all(self, name: str, images: list[Tensor]) -> Tensor | None:
        """(1, ...) for one image, (B, ...) where each prompt has its own. Raises ValueError for other numbers."""
        prompts = len(self.prompts) // self.images_per_prompt
        if len(images) not in (0, 1, prompts):
            raise ValueError(f"one {name} for all or one per prompt: got {len(images)}, prompts {prompts}")
        sizes = {f"{image.shape[-1]}x{image.shape[-2]}" for image in images}
        if len(sizes) > 1:
            raise ValueError(f"{name}: one batch has one size, got {', '.join(sorted(sizes))}; resize=True makes it so")
        if len(images) < 2:
            return images[0][None] if images else None
        return torch.stack(images).repeat_interleave(self.images_per_prompt, dim=0)

    def composite(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), after inpainting with the pixels that the mask protects."""
        return images if self.image is None or self.mask is None else composite(images, self.image, self.mask)

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
