"""Stable Diffusion 3 from prompt to image: `StableDiffusion3.sample_latents` has all steps in order.

Alphabet: B images, H W their size in pixels, C latent channels, h = H / factor, w = W / factor.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.autoencoders import kl
from helpers.autoencoders.configs import follow_kl_config
from helpers.autoencoders.kl import KLAutoencoder
from helpers.diffusion import (
    Denoised,
    Denoiser,
    FlowPath,
    Step,
    apply_guidance,
    convert_prediction,
    initial_noise,
    run_sampler,
)
from helpers.diffusion.noise_levels import noise_levels
from helpers.sd3 import checkpoint
from helpers.sd3.encoders import Condition, TextEncoders
from helpers.sd3.mmdit import MMDiT, MMDiTConfig
from helpers.sd3.request import SD3Config, SD3Request, SkipLayers
from helpers.text.bpe import BytePairTokenizer
from helpers.text.clip import TEXT_NAMES, CLIPTowerConfig, TextTower
from helpers.text.configs import follow_clip_config, follow_t5_config
from helpers.text.contrastive import CLIP
from helpers.text.t5 import T5_NAMES, T5Config, T5Encoder, T5Tokenizer
from helpers.text_to_image.embeds import check_lengths
from helpers.text_to_image.offload import OffloadedPipeline
from helpers.text_to_image.pipeline import (
    channels_last,
    check_parts,
    check_text_states,
    decode_latents,
    encode_image,
    first_latent,
    keep_known,
    latents_to_rgb,
    progress_bar,
)
from helpers.weights import load_weights, read_config, save_with_config
from helpers.weights.causes import guess_cause
from helpers.weights.pretrained import check_dtype_and_device, load_pretrained

# A latent's sixteen channels to red, green and blue, for the published weights:
# https://github.com/Stability-AI/sd3-ref/blob/master/sd3_impls.py
SD3_RGB_FACTORS = (
    (-0.0645, 0.0177, 0.1052),
    (0.0028, 0.0312, 0.0650),
    (0.1848, 0.0762, 0.0360),
    (0.0944, 0.0360, 0.0889),
    (0.0897, 0.0506, -0.0364),
    (-0.0020, 0.1203, 0.0284),
    (0.0855, 0.0118, 0.0283),
    (-0.0539, 0.0658, 0.1047),
    (-0.0057, 0.0116, 0.0700),
    (-0.0412, 0.0281, -0.0039),
    (0.1106, 0.1171, 0.1220),
    (-0.0248, 0.0682, -0.0481),
    (0.0815, 0.0846, 0.1207),
    (-0.0120, -0.0055, -0.0867),
    (-0.0749, -0.0634, -0.0456),
    (-0.1418, -0.1457, -0.1259),
)
AUTOENCODERS = {"stability": "compvis", "diffusers": "diffusers"}  # how each layout names the autoencoder's tensors


class StableDiffusion3(OffloadedPipeline):
    """Text encoders, transformer and autoencoder, and the pipeline from a prompt to an image."""

    def __init__(
        self,
        encoders: TextEncoders,
        transformer: MMDiT,
        autoencoder: KLAutoencoder,
        config: SD3Config,
        rgb_factors: Any = SD3_RGB_FACTORS,
    ):
        """
        Args:
            rgb_factors: (16, 3) from a latent's channels to red, green and blue, for previews.
        """
        super().__init__()
        self.config = config
        self.encoders = encoders
        self.transformer = transformer
        self.autoencoder = autoencoder
        self.path = FlowPath()
        self.rgb_factors = torch.as_tensor(rgb_factors)

    # --- from prompt to image ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample_steps(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] = "",
        *,
        progress: bool = False,
        **options,
    ) -> Iterator[Step]:
        """From a prompt to a latent: yields the state after every step. `generate` decodes the last one.

        Options and errors as for `generate`, which has all of these but `callback`.
        """
        # 1. Check all arguments before any work
        request = SD3Request(self.config, self.encoders.t5 is not None, prompt, negative_prompt, **options)
        return self.sample_latents(request, progress)

    @torch.no_grad()
    def sample_latents(self, request: SD3Request, progress: bool = False) -> Iterator[Step]:
        """The steps of `sample_steps` after the arguments are checked."""
        # 2. Choose the times, from noise to data; image-to-image leaves out the first ones
        all_times = self.times(request.steps, request.shift, request.sigmas)
        times = all_times[request.skipped_steps :]

        # 3. Encode the prompts with three encoders
        condition, negative = self.encode_prompts(request)

        # 4. Prepare the first latent: noise, or the encoded image with noise added
        noise, generators = initial_noise(request.seeds, request.latent_shape)  # (B, C, h, w)
        known = None if request.image is None else self.encode(request.image)
        x = first_latent(noise.to(self.device), known, times, self.path)

        # 5. Build the denoiser: the transformer with guidance; inpainting keeps the known part
        skip = request.skip_layer_guidance(all_times)
        denoise = self.denoiser(condition, negative, request.guidance_scale, skip)
        if known is not None and request.mask is not None:
            denoise = keep_known(denoise, known, request.latent_mask, self.path)

        # 6. Denoise step by step; at strength 0 there is no step left
        if len(times) == 1:
            return iter([Step(0.0, x, x)])
        self.move_to_gpu(self.transformer)
        steps = run_sampler(request.sampler, denoise, x, times, self.path, generator=generators, churn=request.churn)
        return progress_bar(steps, len(times) - 1, progress)

    def generate(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] = "",
        *,
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        negative_prompt_3: str | Sequence[str] | None = None,
        prompt_embeds: Condition | None = None,
        negative_prompt_embeds: Condition | None = None,
        use_t5: bool = True,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        num_images: int = 1,
        sampler: str = "euler",
        sigmas: str | Sequence[float] | None = None,
        churn: float = 0.0,
        init_image: Any = None,
        strength: float = 0.8,
        mask_image: Any = None,
        resize: bool = False,
        clip_skip: int = 0,
        shift: float | None = None,
        skip_layers: Collection[int] = (),
        skip_scale: float = 2.8,
        skip_from: float = 0.01,
        skip_until: float = 0.2,
        callback: Callable[[Step, Tensor], None] | None = None,
        progress: bool = True,
    ) -> Tensor:
        """Generate images, float32 (B, 3, H, W) in [-1, 1].

        Args:
            prompt: one, or one per image; for all three encoders,
            prompt_2, prompt_3: unless the second (CLIP-G) or third (T5) gets another.
            negative_prompt: what guidance moves away from; negative_prompt_2, negative_prompt_3 as for the prompt.
            prompt_embeds: what `encode_text` returned or what was made of it; with prompt=None.
            negative_prompt_embeds: the same in place of the negative prompts, a row for each prompt or one for all.
            use_t5: False puts zeros where T5's states would be, as the model saw them in training now and then.
            steps: of the sampler, 1 to 999; None: as the model's publisher recommends.
            guidance_scale: 1 is none; None: as the publisher recommends.
            seed: image i takes all its noise from seed + i, whatever else is in the batch and on which device.
            height, width: pixels; None: the size of training, or of init_image.
            num_images: per prompt.
            sampler: a name in helpers.diffusion.SAMPLERS.
            sigmas: noise levels sigma of the steps, after the shift: "karras", "exponential" or decreasing numbers, at
                most 1, as many as steps; None: evenly spaced and shifted.
            churn: fresh noise before every step of "euler" and "heun" but the first; 0: none.
            init_image, strength, mask_image, resize: image-to-image and inpainting, as for Stable Diffusion 1.
            clip_skip: leave out that many more of the CLIPs' last layers.
            shift: of the times towards noise; None: the model's own, 1: evenly spaced.
            skip_layers: of the transformer, for skip-layer guidance: 7, 8 and 9 in Stable Diffusion 3.5 medium.
            skip_scale: of skip-layer guidance; skip_from, skip_until: in which part of the steps it acts.
            callback: called after every step with the step and a preview (B, 3, h, w) of its predicted x0.
            progress: show a bar.

        Raises:
            ValueError, TypeError: for bad arguments, before any work is done.
            FloatingPointError: at the first step whose state is NaN or infinite.
        """
        # 1. Check all arguments before any work
        request = SD3Request(
            self.config,
            self.encoders.t5 is not None,
            prompt,
            negative_prompt,
            prompt_2=prompt_2,
            prompt_3=prompt_3,
            negative_prompt_2=negative_prompt_2,
            negative_prompt_3=negative_prompt_3,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            use_t5=use_t5,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
            height=height,
            width=width,
            num_images=num_images,
            sampler=sampler,
            sigmas=sigmas,
            churn=churn,
            init_image=init_image,
            strength=strength,
            mask_image=mask_image,
            resize=resize,
            clip_skip=clip_skip,
            shift=shift,
            skip_layers=skip_layers,
            skip_scale=skip_scale,
            skip_from=skip_from,
            skip_until=skip_until,
        )

        # 2 to 6. From the prompt to the last latent
        for step in self.sample_latents(request, progress):
            if callback is not None:
                callback(step, self.latents_to_rgb(step.x0))

        # 7. Decode the last latent
        images = self.decode(step.x)

        # 8. Inpainting: put back the pixels that the mask protects
        return request.composite(images)

    # --- the steps ----------------------------------------------------------------------------------------------------

    def encode_text(
        self,
        prompts: Sequence[str],
        prompts_2: Sequence[str] | None = None,
        prompts_3: Sequence[str] | None = None,
        clip_skip: int = 0,
        use_t5: bool = True,
    ) -> Condition:
        """Encode prompts with the three encoders; arguments as for `TextEncoders.forward`."""
        self.move_to_gpu(self.encoders)
        return self.encoders(prompts, prompts_2, prompts_3, clip_skip, use_t5)

    @torch.no_grad()
    def encode_prompts(self, request: SD3Request) -> tuple[Condition, Condition | None]:
        """The conditions of the prompts, and of the negative ones where there is guidance; clip_skip is not for these.

        Raises:
            ValueError: for embeddings of more tokens than the negative prompt has.
        """
        condition = request.prompt_embeds
        if condition is None:
            condition = self.encode_text(
                request.prompts, request.prompts_2, request.prompts_3, request.clip_skip, request.use_t5
            )
        if not request.guided:
            return self._as_states(condition), None
        negative = request.negative_prompt_embeds
        if negative is None:
            negative = self.encode_text(
                request.negative_prompts, request.negative_prompts_2, request.negative_prompts_3, use_t5=request.use_t5
            )
        check_lengths(condition.text, negative.text)
        return self._as_states(condition), self._as_states(negative)

    def _as_states(self, condition: Condition) -> Condition:
        """On the device and in the dtype in which the transformer reads it."""
        dtype = next(self.transformer.parameters()).dtype
        return Condition(*(part.to(self.device, dtype) for part in condition))

    def times(self, steps: int, shift: float | None = None, sigmas: str | Sequence[float] | None = None) -> Tensor:
        """(steps + 1,) shares of noise, from 1 to 0: evenly spaced, then shifted towards noise (SD3, eq. 23).

        Both references shift the last time twice: once when they set the schedule up, once when they use it.

        Args:
            sigmas: shares of noise as for `noise_levels`; the formulas go from the first to the last shifted time.
        """
        shift = self.config.shift if shift is None else shift
        smallest = shifted(torch.tensor(1e-3, dtype=torch.float64), shift).item()
        if sigmas is not None:
            last = shifted(torch.tensor(smallest, dtype=torch.float64), shift).item()
            return torch.cat([noise_levels(sigmas, steps, last, 1.0), torch.zeros(1)]).float()
        times = shifted(torch.linspace(1, smallest, steps, dtype=torch.float64), shift)
        return torch.cat([times, torch.zeros(1)]).float()

    def denoiser(
        self, condition: Condition, negative: Condition | None, scale: float, skip: SkipLayers | None = None
    ) -> Denoiser:
        """The function that samplers call: the transformer, with classifier-free guidance away from `negative`.

        Args:
            condition, negative: of the prompts; negative None: no guidance.
            scale: of the guidance.
            skip: skip-layer guidance, which adds to it.
        """
        both = condition if negative is None else negative.cat(condition)
        check_text_states({"states": both.text, "pooled embeddings": both.pooled}, both.text.dtype)

        def velocity(x: Tensor, t: float, condition: Condition, skip_layers: Collection[int] = ()) -> Tensor:
            time = torch.full((len(x),), t, device=x.device)
            x = channels_last(x.to(condition.text.dtype))
            return self.transformer(x, time, *condition, skip_layers=skip_layers).float()

        def denoise(x: Tensor, t: float) -> Denoised:
            prediction = velocity(x if negative is None else torch.cat([x, x]), t, both)
            if negative is not None:
                unconditional, conditional = prediction.chunk(2)
                prediction = apply_guidance(conditional, unconditional, scale)
                if skip is not None and skip.interval[0] <= t <= skip.interval[1]:
                    without_layers = velocity(x, t, condition, skip.layers)
                    prediction = prediction + skip.scale * (conditional - without_layers)
            return convert_prediction("velocity", prediction, x, torch.tensor(1 - t), torch.tensor(t))

        return denoise

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latents float32 (B, C, h, w), without noise."""
        self.move_to_gpu(self.autoencoder)
        return encode_image(self.autoencoder, image)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> images float32 (B, 3, H, W) in [-1, 1], on the CPU."""
        self.move_to_gpu(self.autoencoder)
        return decode_latents(self.autoencoder, latents)

    def latents_to_rgb(self, latents: Tensor) -> Tensor:
        """A preview without the decoder: (B, C, h, w) -> (B, 3, h, w) in [-1, 1]."""
        return latents_to_rgb(latents, self.rgb_factors)

    # --- weights ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path,
        *,
        config: SD3Config | None = None,
        t5: bool = True,
        variant: str | None = None,
        encoders: str | Path | None = None,
        tokenizers: checkpoint.Tokenizers | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> "StableDiffusion3":
        """Load published weights of Stable Diffusion 3 and 3.5, in every size; strict.

        Args:
            source: for instance "stabilityai/stable-diffusion-3-medium-diffusers" (ask for access there), a diffusers
                folder, or a single file such as sd3_medium_incl_clips.safetensors.
            config: sizes; None: the published ones. The transformer's are inferred from its tensors in any case, and
                the shift from the folder's scheduler (3 for a single file).
            t5: False leaves the largest text encoder out.
            variant, encoders, tokenizers: as for `checkpoint.read`.
            dtype, device: what to compute in, and where.

        Raises:
            FileNotFoundError: where something is not there; it says what was looked for.
            TypeError: for a dtype that is none.
            ValueError: for a bad option; for tensors that are missing, left over, of another shape or not finite; for a
                configuration that the course does not follow.
        """
        # 1. Check the options before gigabytes are read
        check_dtype_and_device(dtype, device)
        if tokenizers is not None and (isinstance(tokenizers, str | Path) or len(tokenizers) != 2):
            raise ValueError(f"tokenizers must be two, CLIP's and T5's (None: the usual one), got {tokenizers!r}")

        # 2. Read the tensors and follow the configuration that comes with them
        parts = checkpoint.read(source, variant=variant, t5=t5, encoders=encoders, tokenizers=tokenizers)
        sizes = checkpoint.follow_transformer_config(
            checkpoint.infer_config(parts.transformer), parts.configs["transformer"]
        )
        config = _follow_configs(config or SD3Config(), parts, sizes)
        config = replace(config, **checkpoint.recommended_sampling(sizes, Path(source).name))
        tokenizer, t5_tokenizer = _read_tokenizers(parts.tokenizers, config)

        # 3. Build the networks and load them, strictly
        with torch.device("meta"):  # no time and no memory for initial weights that are replaced at once
            transformer = MMDiT(sizes)
            autoencoder = KLAutoencoder(config.autoencoder)
            tower_l = TextTower(config.clip_l)
            tower_g = TextTower(config.clip_g)
            t5_encoder = None if parts.t5 is None else T5Encoder(config.t5)
        transformer_tensors = checkpoint.normalize_transformer(parts.transformer, sizes, parts.layout)
        transformer_names = checkpoint.transformer_names(parts.layout)
        autoencoder_names = kl.published_names(config.autoencoder, AUTOENCODERS[parts.layout])
        networks = [
            ("transformer", transformer, transformer_tensors, transformer_names),
            ("autoencoder", autoencoder, parts.autoencoder, autoencoder_names),
            ("clip_l", tower_l, parts.clip_l, TEXT_NAMES),
            ("clip_g", tower_g, parts.clip_g, TEXT_NAMES),
        ]
        if t5_encoder is not None and parts.t5 is not None:
            networks.append(("t5", t5_encoder, parts.t5, T5_NAMES))
        for part, network, tensors, names in networks:
            load_pretrained(
                network,
                tensors,
                names,
                what=f"the {part} of Stable Diffusion 3",
                dtype=dtype,
                hint=partial(guess_cause, tensors, "sd3"),
                place=parts.places[part],
            )
        if t5_encoder is not None and dtype == torch.float16:
            t5_encoder.keep_output_projections_in_fp32()
        text_encoders = TextEncoders(
            tower_l, tower_g, t5_encoder, tokenizer, t5_tokenizer, sizes.text_width, config.t5_length
        )
        model = cls(text_encoders, transformer, autoencoder, config, SD3_RGB_FACTORS)
        return model.to(device).to(memory_format=torch.channels_last).eval()

    @classmethod
    def from_weights(
        cls,
        name_or_path: str | Path = "sd3",
        clip: str | Path = "clip",
        autoencoder: str | Path = "autoencoder_16",
        device: str | torch.device = "cpu",
    ) -> "StableDiffusion3":
        """Load the tiny system: what `python -m helpers.sd3.train` trained, and the parts it was trained with.

        Raises:
            FileNotFoundError, ValueError: as `load_weights` does, and where the parts are others than in training.
        """
        import tokenizers

        stored = read_config(name_or_path)
        check_parts("sd3", "transformer", name_or_path, stored, {"clip": clip, "autoencoder": autoencoder})
        clip_model, tokenizer = CLIP.from_weights(clip)
        kl_autoencoder = KLAutoencoder.from_weights(autoencoder)
        config = SD3Config(
            transformer=MMDiTConfig(**stored["transformer"]),
            autoencoder=kl_autoencoder.config,
            clip_l=clip_model.text.config,
            clip_g=CLIPTowerConfig(**stored["clip_g"]),
            t5=T5Config(**stored["t5"]),
            t5_length=stored["t5_length"],
            size=stored["size"],
            shift=stored["shift"],
        )
        transformer = MMDiT(config.transformer)
        clip_g = TextTower(config.clip_g)
        t5 = T5Encoder(config.t5)
        load_weights(_trained_parts(transformer, clip_g, t5), name_or_path)
        t5_tokenizer = T5Tokenizer(tokenizers.Tokenizer.from_str(stored["t5_words"]), config.t5_length)
        encoders = TextEncoders(
            clip_model.text, clip_g, t5, tokenizer, t5_tokenizer, config.transformer.text_width, config.t5_length
        )
        return cls(encoders, transformer, kl_autoencoder, config, stored["latent_rgb_factors"]).to(device).eval()

    def save(self, path: str | Path, metadata: dict[str, str], parts: dict[str, str]) -> None:
        """Write transformer, second and third encoder (fp16), with the checksums of the files that they go with.

        Raises:
            ValueError: for a system without T5.
        """
        encoders = self.encoders
        if encoders.t5 is None or encoders.t5_tokenizer is None:
            raise ValueError("a Stable Diffusion 3 without T5 cannot be saved: its weights file holds all encoders")
        stored = {
            "transformer": asdict(self.config.transformer),
            "clip_g": asdict(self.config.clip_g),
            "t5": asdict(self.config.t5),
            "t5_length": self.config.t5_length,
            "size": self.config.size,
            "shift": self.config.shift,
            "parts": parts,
            "latent_rgb_factors": self.rgb_factors.tolist(),
            "t5_words": encoders.t5_tokenizer.tokenizer.to_str(),
        }
        save_with_config(_trained_parts(self.transformer, encoders.clip_g, encoders.t5), stored, path, metadata)


def _follow_configs(config: SD3Config, parts: checkpoint.PretrainedParts, transformer: MMDiTConfig) -> SD3Config:
    """The sizes with what the checkpoint's own configuration says. Raises ValueError where it cannot be followed."""
    return replace(
        config,
        transformer=transformer,
        shift=parts.shift,
        autoencoder=follow_kl_config(config.autoencoder, parts.configs["autoencoder"]),
        clip_l=follow_clip_config(config.clip_l, parts.configs["clip_l"]),
        clip_g=follow_clip_config(config.clip_g, parts.configs["clip_g"]),
        t5=config.t5 if parts.t5 is None else follow_t5_config(config.t5, parts.configs["t5"]),
    )


def _trained_parts(transformer: MMDiT, clip_g: TextTower, t5: T5Encoder) -> nn.ModuleDict:
    """The networks that the tiny system's weights file holds, under the names it has for them."""
    return nn.ModuleDict({"transformer": transformer, "clip_g": clip_g, "t5": t5})


def _read_tokenizers(
    files: tuple[Path, Path | None], config: SD3Config
) -> tuple[BytePairTokenizer, T5Tokenizer | None]:
    """Read both tokenizers. Raises ValueError where they have other vocabularies than the encoders."""
    tokenizer = BytePairTokenizer.from_file(files[0], length=config.clip_l.length)
    t5_tokenizer = None if files[1] is None else T5Tokenizer.from_file(files[1], config.t5_length)
    t5_fits = t5_tokenizer is None or len(t5_tokenizer) <= config.t5.vocabulary
    if len(tokenizer) != config.clip_l.vocabulary or not t5_fits:
        sizes = [f"{len(each):,}" for each in (tokenizer, t5_tokenizer) if each is not None]
        raise ValueError(
            f"tokenizers of {' and '.join(sizes)} tokens do not belong to text encoders of "
            f"{config.clip_l.vocabulary:,} and {config.t5.vocabulary:,}: pass others as tokenizers="
        )
    return tokenizer, t5_tokenizer


def shifted(t: Tensor, shift: float) -> Tensor:
    """t' = s t / (1 + (s - 1) t): more of the path at high noise, for in larger images the same noise hides less."""
    return shift * t / (1 + (shift - 1) * t)
