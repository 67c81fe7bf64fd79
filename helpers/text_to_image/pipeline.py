"""The steps from prompt to image that Stable Diffusion 1 and 3 share, as functions without state.

Each system's `sample_steps` calls them in order. Alphabet: B images, H W their size in pixels, C latent channels,
h = H / factor, w = W / factor.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.autoencoders.kl import KLAutoencoder
from helpers.diffusion.objectives import Denoised
from helpers.diffusion.samplers import Denoiser, Step, finite_steps
from helpers.diffusion.schedules import NoisePath
from helpers.weights import TRAINING_COMMANDS, read_metadata


def channels_last(x: Tensor) -> Tensor:
    """The same values in the memory layout in which convolutions are fastest."""
    return x.contiguous(memory_format=torch.channels_last)


# --- latents and images ---------------------------------------------------------------------------------------------


@torch.no_grad()
def encode_image(autoencoder: KLAutoencoder, image: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> normalised latents float32 (B, C, h, w): the posterior's mean, no noise.

    Overflow is treated as in `decode_latents`.
    """
    latents, _ = _finite(lambda model: model.to_latents(_as_input(model, image)), autoencoder, "encoder")
    return latents.float()


@torch.no_grad()
def decode_latents(autoencoder: KLAutoencoder, latents: Tensor) -> Tensor:
    """(B, C, h, w) -> images float32 (B, 3, H, W) in [-1, 1] on the CPU; one at a time, to save memory.

    Where the decoder overflows in half precision, as Stable Diffusion XL's does in float16, the image is decoded in
    float32, with a warning.

    Raises:
        ValueError: for latents that hold NaN or infinity.
        FloatingPointError: where the decoder overflows in float32 too.
    """
    bad = [i for i, latent in enumerate(latents) if not latent.isfinite().all()]
    if bad:
        raise ValueError(
            f"the latents of image {', '.join(map(str, bad))} hold NaN or infinity: nothing can be decoded"
        )
    images = []
    for latent in latents.split(1):
        decode = partial(_decode_in_its_dtype, latent=latent)
        image, autoencoder = _finite(decode, autoencoder, "decoder")  # after an overflow, the float32 copy goes on
        images.append(image.float().cpu())
    return torch.cat(images)


def _decode_in_its_dtype(autoencoder: KLAutoencoder, latent: Tensor) -> Tensor:
    return autoencoder.to_images(_as_input(autoencoder, latent))


def _as_input(model: KLAutoencoder, x: Tensor) -> Tensor:
    """On the model's device, in its dtype and in the layout in which it is fastest."""
    return channels_last(x.to(next(model.parameters())))


def _finite(
    compute: Callable[[KLAutoencoder], Tensor], autoencoder: KLAutoencoder, half: str
) -> tuple[Tensor, KLAutoencoder]:
    """What is computed with the autoencoder, or with a float32 copy where its own dtype overflows; and which it was.

    Raises:
        FloatingPointError: where float32 overflows too.
    """
    dtype = next(autoencoder.parameters()).dtype
    result = compute(autoencoder)
    if dtype != torch.float32 and not result.isfinite().all():
        warnings.warn(
            f"the autoencoder's {half} overflows in {dtype}, so a float32 copy of it computes instead: "
            "to save its memory and time, load the autoencoder in float32",
            stacklevel=3,
        )
        autoencoder = copy.deepcopy(autoencoder).float()
        result = compute(autoencoder)
    if not result.isfinite().all():
        raise FloatingPointError(
            f"the autoencoder's {half} gives NaN or infinity even in float32: are its weights whole?"
        )
    return result, autoencoder


def check_text_states(states: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Raise FloatingPointError where a text encoder's output, by its name, holds NaN or infinity."""
    for name, tensor in states.items():
        if not tensor.isfinite().all():
            raise FloatingPointError(
                f"the {name} of the prompt hold NaN or infinity: the text encoder overflows in {dtype} or its weights "
                "are damaged; load it in float32 or bfloat16"
            )


def latents_to_rgb(latents: Tensor, factors: Tensor) -> Tensor:
    """A preview without the decoder: one linear map per position.

    Args:
        latents: (B, C, h, w).
        factors: (C, 3) from a latent's channels to red, green and blue.

    Returns:
        float32 (B, 3, h, w) in [-1, 1].
    """
    return torch.einsum("bchw,cr->brhw", latents.float(), factors.to(latents.device)).clamp(-1, 1)


# --- the sampler's input --------------------------------------------------------------------------------------------


def first_latent(noise: Tensor, known: Tensor | None, times: Tensor, path: NoisePath) -> Tensor:
    """The state at times[0]: noise, or for image-to-image the encoded image with noise added.

    Args:
        noise: (B, C, h, w).
        known: (1, C, h, w) the encoded image, or (B, C, h, w); None: text-to-image.
        times: (T + 1,) that are left to sample; with a single one nothing is, and the image stays without noise.
        path: gives the noise level of times[0].
    """
    if known is None:
        return noise
    if len(times) == 1:
        return known.expand_as(noise)
    alpha, sigma = path.alpha_sigma(times[0])
    return alpha.to(noise) * known.expand_as(noise) + sigma.to(noise) * noise


def keep_known(denoise: Denoiser, known: Tensor, mask: Tensor, path: NoisePath) -> Denoiser:
    """A denoiser for inpainting: it predicts the known latent wherever the mask is 0, so the sampler ends there.

    Args:
        denoise: predicts freely.
        known: (1, C, h, w) the encoded image, or (B, C, h, w).
        mask: (1, 1, h, w) or (B, 1, h, w), 1 where to generate, 0 where to keep.
        path: gives alpha and sigma.
    """

    def denoise_masked(x: Tensor, t: float) -> Denoised:
        alpha, sigma = path.alpha_sigma(torch.tensor(t))
        x0 = torch.lerp(known.expand_as(x), denoise(x, t).x0, mask.to(x))
        return Denoised(x0, (x - alpha.to(x) * x0) / sigma.to(x))

    return denoise_masked


def progress_bar(steps: Iterator[Step], total: int, shown: bool) -> Iterator[Step]:
    """Yield the steps, with a progress bar where `shown`. Raises FloatingPointError at a step that is not finite."""
    if not shown:
        yield from finite_steps(steps)
        return
    from tqdm.auto import tqdm

    yield from tqdm(finite_steps(steps), total=total, desc="denoising", leave=False)


# --- weights --------------------------------------------------------------------------------------------------------


def check_parts(
    system: str, network: str, source: str | Path, config: Mapping[str, Any], files: Mapping[str, Any]
) -> None:
    """Raise ValueError unless `files` are those that the network was trained with, by their checksums.

    Args:
        system: its name in TRAINING_COMMANDS.
        network: what was trained, for the message.
        source: name or path of the network's weights.
        config: stored with them; config["parts"] has a checksum per part.
        files: part -> name or path of its weights.
    """
    for part, file in files.items():
        if read_metadata(file)["sha256"] != config["parts"][part]:
            raise ValueError(
                f"the {network} {source} was trained with other weights of the {part} than {file}: "
                f"train it again, {TRAINING_COMMANDS[system]}"
            )
