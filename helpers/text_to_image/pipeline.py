"""From noise to a picture by a walk in latent space: what Stable Diffusion 1 and 3 have in common.

A system adds who is asked on the way, and at which times. Alphabet: B pictures, H W their size in pixels, C latent
channels, h = H / factor, w = W / factor.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from helpers.diffusion.objectives import Denoised
from helpers.diffusion.samplers import SAMPLERS, Denoiser, Step
from helpers.diffusion.schedules import NoisePath
from helpers.text_to_image.request import Limits, Request


class LatentDiffusion(nn.Module):
    """An autoencoder, a path, and the walk along it: text to image, image to image, inpainting."""

    def __init__(self, autoencoder: nn.Module, path: NoisePath, limits: Limits, preview: Any):
        """
        Args:
            autoencoder: has `to_latents` and `to_pictures`.
            preview: (C, 3) from a latent's channels to red, green and blue.
        """
        super().__init__()
        self.autoencoder = autoencoder
        self.path = path
        self.limits = limits
        self.preview = torch.as_tensor(preview)

    def request(self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] = "", **options) -> Request:
        """A checked wish. Raises ValueError or TypeError for bad arguments."""
        return Request(self.limits, prompt, negative_prompt, **options)

    def asked(self, request: Request) -> Denoiser:
        """Whom the sampler asks about a state, for this request. The prompts are read here."""
        raise NotImplementedError

    def times(self, steps: int) -> Tensor:
        """(steps + 1,) falling times on the path: at all but the last, where it ends, the network is asked."""
        raise NotImplementedError

    def times_for(self, request: Request) -> Tensor:
        """The times of a request."""
        return self.times(request.steps)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def look(self, latents: Tensor) -> Tensor:
        """A preview without the decoder: (B, C, h, w) -> (B, 3, h, w) in [-1, 1], one linear map per position."""
        return torch.einsum("bchw,cr->brhw", latents.float(), self.preview.to(latents.device)).clamp(-1, 1)

    def sample_steps(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] = "", **options
    ) -> Iterator[Step]:
        """Generate, yielding every state in latent space; options as for `generate`, but callback and progress."""
        return self.steps(self.request(prompt, negative_prompt, **options))

    def steps(self, request: Request) -> Iterator[Step]:
        """The walk of a request."""
        with torch.no_grad():
            denoise, x, times, generator = self._start(request)
        if len(times) < 2:  # strength 0: nothing is redrawn
            yield Step(0.0, x, x)
            return
        steps = SAMPLERS[request.sampler](denoise, x, times, self.path, generator=generator)
        while True:
            with torch.no_grad():  # around each step: a generator's body runs under its caller's gradient mode
                step = next(steps, None)
            if step is None:
                return
            yield step

    def drawn(self, request: Request, callback: Callable[[Step, Tensor], None] | None, progress: bool) -> Tensor:
        """The walk of a request to its end, decoded: float32 (B, 3, H, W) in [-1, 1]."""
        from tqdm.auto import tqdm

        steps = tqdm(
            self.steps(request),
            total=request.steps - request.skipped,
            desc="denoising",
            disable=not progress,
            leave=False,
        )
        for step in steps:
            if callback is not None:
                callback(step, self.look(step.x0))
        return request.pasted(self.decode(step.x))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures, float32 on the CPU; one at a time, for the decoder needs the most memory."""
        dtype = next(self.autoencoder.parameters()).dtype
        return torch.cat(
            [self.autoencoder.to_pictures(channels_last(one.to(dtype))).float().cpu() for one in latents.split(1)]
        )

    @torch.no_grad()
    def encode(self, picture: Tensor) -> Tensor:
        """(1, 3, H, W) in [-1, 1] -> latents float32 (1, C, h, w), without noise."""
        picture = picture.to(self.device, next(self.autoencoder.parameters()).dtype)
        return self.autoencoder.to_latents(channels_last(picture)).float()

    def _start(self, request: Request) -> tuple[Denoiser, Tensor, Tensor, torch.Generator]:
        """What a sampler needs: whom to ask, the first state, the times from there, and fresh noise."""
        known = None if request.picture is None else self.encode(request.picture)
        denoise = self.asked(request)
        times = self.times_for(request)
        generators = [torch.Generator().manual_seed(seed) for seed in request.seeds]  # on the CPU: alike everywhere
        noise = torch.stack([torch.randn(request.latent_shape, generator=one) for one in generators]).to(self.device)
        generator = generators[0]  # goes on where the noise ended: what is drawn later must not repeat it
        if known is None:
            return denoise, noise, times, generator
        known = known.expand_as(noise)
        times = times[request.skipped :]
        if request.mask is not None:
            denoise = self._inpainting(denoise, known, request.latent_mask().to(noise))
        alpha, sigma = (c.to(noise) for c in self.path.alpha_sigma(times[0]))
        return denoise, known if len(times) < 2 else alpha * known + sigma * noise, times, generator

    def _inpainting(self, denoise: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
        """Where the mask is 0 the clean latent is known: say so whatever the network says, and the sampler keeps it."""

        def pinned(x: Tensor, t: float) -> Denoised:
            alpha, sigma = (c.to(x) for c in self.path.alpha_sigma(torch.tensor(t)))
            x0 = torch.lerp(known, denoise(x, t).x0, mask)
            return Denoised(x0, (x - alpha * x0) / sigma)

        return pinned


def channels_last(x: Tensor) -> Tensor:
    """The same numbers, in the order that convolutions are fastest in."""
    return x.contiguous(memory_format=torch.channels_last)
