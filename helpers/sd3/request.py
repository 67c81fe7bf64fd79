"""The sizes of Stable Diffusion 3's networks, and the arguments of its pipeline, checked before any work is done.

Alphabet: B images, H W their size in pixels, N text tokens, P width of the pooled embedding.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from helpers.autoencoders.kl import KLConfig
from helpers.diffusion.samplers import check_path
from helpers.diffusion.schedules import FlowPath
from helpers.sd3.encoders import Condition, clip_g, clip_l
from helpers.sd3.mmdit import MMDiTConfig
from helpers.text.clip import CLIPTowerConfig
from helpers.text.t5 import T5Config
from helpers.text_to_image.embeds import check_tensor
from helpers.text_to_image.request import Limits, Request, check_integer, check_number


@dataclass(frozen=True)
class SD3Config:
    """Sizes of the five networks; the defaults are Stable Diffusion 3 medium's."""

    transformer: MMDiTConfig = MMDiTConfig()
    autoencoder: KLConfig = field(default_factory=KLConfig.sd3)
    clip_l: CLIPTowerConfig = field(default_factory=clip_l)
    clip_g: CLIPTowerConfig = field(default_factory=clip_g)
    t5: T5Config = T5Config()
    t5_length: int = 256  # tokens
    size: int = 1024  # pixels a side
    shift: float = 3.0  # of the times, towards noise
    steps: int = 28  # of the sampler, as the publisher recommends; so is the guidance
    guidance_scale: float = 7.0

    @property
    def limits(self) -> Limits:
        """The limits of a request that follow from the sizes."""
        factor = self.autoencoder.downsampling_factor
        token = factor * self.transformer.patch  # pixels a side of one token
        return Limits(
            size=self.size,
            multiple=token,
            downsampling_factor=factor,
            latent_channels=self.transformer.latent_channels,
            text_layers=min(self.clip_l.layers, self.clip_g.layers) - 1,
            text_width=self.transformer.text_width,
            largest=token * self.transformer.pos_embed_max_size,
        )


class SkipLayers(NamedTuple):
    """Skip-layer guidance of Stable Diffusion 3.5: also move away from the prediction without some layers."""

    layers: Collection[int]  # of the transformer, to leave out
    scale: float
    interval: tuple[float, float]  # smallest and largest time at which it acts


class SD3Request(Request):
    """The checked arguments of `StableDiffusion3.generate`.

    Attributes, beside those of `Request`:
        prompts_2, prompts_3, negative_prompts_2, negative_prompts_3: B texts for CLIP-G and T5, or None: as for CLIP-L.
        use_t5: False: zeros stand for T5's states.
        shift: of the times, or None: the model's.
        skip_layers, skip_scale: see `SkipLayers`.
        skip_steps: the steps in which they act.
    """

    def __init__(
        self,
        config: SD3Config,
        has_t5: bool,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] = "",
        *,
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        negative_prompt_3: str | Sequence[str] | None = None,
        use_t5: bool = True,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str = "euler",
        shift: float | None = None,
        skip_layers: Collection[int] | int = (),
        skip_scale: float = 2.8,
        skip_from: float = 0.01,
        skip_until: float = 0.2,
        **options: Any,
    ):
        """Arguments as for `StableDiffusion3.generate`; `has_t5`: whether its encoder is loaded."""
        for name, text in (("prompt_3", prompt_3), ("negative_prompt_3", negative_prompt_3)):
            if text is not None and not (has_t5 and use_t5):
                raise ValueError(f"{name} is for T5, which is not loaded or switched off (use_t5=False)")
        self.config = config
        check_path(sampler, FlowPath())
        super().__init__(
            config.limits,
            prompt,
            negative_prompt,
            steps=config.steps if steps is None else steps,
            guidance_scale=config.guidance_scale if guidance_scale is None else guidance_scale,
            sampler=sampler,
            **options,
        )
        self.prompts_2 = self._match_or_none("prompt_2", prompt_2)
        self.prompts_3 = self._match_or_none("prompt_3", prompt_3)
        self.negative_prompts_2 = self._match_or_none("negative_prompt_2", negative_prompt_2)
        self.negative_prompts_3 = self._match_or_none("negative_prompt_3", negative_prompt_3)
        self.use_t5 = use_t5
        self.shift = None if shift is None else check_number("shift", shift, 0.01, 100)
        layers = skip_layers if isinstance(skip_layers, Collection) else [skip_layers]
        last_layer = config.transformer.layers - 1
        self.skip_layers = [check_integer("skip_layers", layer, 0, last_layer) for layer in layers]
        if self.skip_layers and not self.guided:
            raise ValueError("skip_layers adds to guidance: set a guidance_scale other than 1")
        self.skip_scale = check_number("skip_scale", skip_scale, 0, 100)
        first = check_number("skip_from", skip_from, 0, 1) * self.steps
        end = check_number("skip_until", skip_until, 0, 1) * self.steps
        self.skip_steps = [i for i in range(self.skipped_steps, self.steps) if first < i < end]
        if self.skip_layers and not self.skip_steps:
            raise ValueError(
                f"skip_layers would act in none of the {self.steps - self.skipped_steps} steps: "
                "take more steps, or widen skip_from..skip_until"
            )

    def _match_or_none(self, name: str, prompts: str | Sequence[str] | None) -> list[str] | None:
        return None if prompts is None else self.match_prompts(name, prompts)

    def check_embeds(self, name: str, embeds: Any) -> None:
        """Raise TypeError or ValueError unless it is a `Condition` for this transformer."""
        if not isinstance(embeds, Condition):
            raise TypeError(f"{name} must be a Condition, as encode_text returns it; got {type(embeds).__name__}")
        super().check_embeds(f"{name}.text", embeds.text)
        rows = len(embeds.text)
        check_tensor(f"{name}.pooled", embeds.pooled, "(B, P)", (rows, self.config.transformer.pooled_width))

    def skip_layer_guidance(self, times: Tensor) -> SkipLayers | None:
        """When and how skip-layer guidance acts, given the times of all steps; None: not at all."""
        if not self.skip_layers:
            return None
        interval = (times[self.skip_steps[-1]].item(), times[self.skip_steps[0]].item())
        return SkipLayers(self.skip_layers, self.skip_scale, interval)
