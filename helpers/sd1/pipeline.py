"""Stable Diffusion 1 from prompt to image: `StableDiffusion1.sample_latents` has all steps in order.

Alphabet: B images, H W their size in pixels, C latent channels, h = H / factor, w = W / factor, N text tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.autoencoders import kl
from helpers.autoencoders.configs import follow_kl_config
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.diffusion import (
    Denoised,
    Denoiser,
    Step,
    apply_guidance,
    convert_prediction,
    initial_noise,
    run_sampler,
)
from helpers.sd1 import checkpoint
from helpers.sd1.schedule import PREDICTION_TYPES, Schedule
from helpers.sd1.unet import UNet, UNetConfig
from helpers.text.bpe import BytePairTokenizer
from helpers.text.clip import TEXT_NAMES, CLIPTowerConfig, TextTower
from helpers.text.configs import follow_clip_config
from helpers.text.contrastive import CLIP
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
from helpers.text_to_image.request import Limits, Request
from helpers.text_to_image.weighted_prompts import encode_weighted
from helpers.weights import load_weights, read_config, save_with_config
from helpers.weights.pretrained import check_dtype_and_device, load_pretrained

# A latent's four channels to red, green and blue, fitted by eye and regression for the published weights:
# https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204
V1_RGB_FACTORS = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))


@dataclass(frozen=True)
class SD1Config:
    """Sizes of the three networks; the defaults are the published ones."""

    text: CLIPTowerConfig = CLIPTowerConfig()
    unet: UNetConfig = UNetConfig()
    autoencoder: KLConfig = KLConfig()
    size: int = 512  # pixels a side of the training images

    @classmethod
    def v1(cls) -> "SD1Config":
        """Stable Diffusion 1.1 to 1.5, 1,066,235,307 parameters."""
        return cls()

    @property
    def limits(self) -> Limits:
        """The limits of a request that follow from the sizes."""
        factor = self.autoencoder.downsampling_factor
        return Limits(self.size, factor, factor, self.unet.latent_channels, self.text.layers, self.text.width)


class StableDiffusion1(OffloadedPipeline):
    """Tokenizer, text encoder, U-Net and autoencoder, and the pipeline from a prompt to an image."""

    def __init__(
        self,
        tokenizer: BytePairTokenizer,
        text: TextTower,
        unet: UNet,
        autoencoder: KLAutoencoder,
        size: int,
        prediction: str = "epsilon",
        rgb_factors: Any = V1_RGB_FACTORS,
        schedule: Schedule | None = None,
    ):
        """
        Args:
            size: pixels a side of the U-Net's training images.
            prediction: what the U-Net predicts: "epsilon", or "v" in some fine-tunes.
            rgb_factors: (C, 3) from a latent's channels to red, green and blue, for previews.
            schedule: noise and timesteps of the U-Net's training; None: Stable Diffusion 1's.
        """
        super().__init__()
        self.config = SD1Config(text.config, unet.config, autoencoder.config, size)
        self.tokenizer = tokenizer
        self.text = text
        self.unet = unet
        self.autoencoder = autoencoder
        self.schedule = schedule or Schedule()
        self.path = self.schedule.path
        self.prediction = prediction
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
        request = Request(self.config.limits, prompt, negative_prompt, **options)
        return self.sample_latents(request, progress)

    @torch.no_grad()
    def sample_latents(self, request: Request, progress: bool = False) -> Iterator[Step]:
        """The steps of `sample_steps` after the arguments are checked."""
        # 2. Choose the times, from noise to data; image-to-image leaves out the first ones
        times = self.times(request.steps, request.sigmas)[request.skipped_steps :]

        # 3. Encode the prompts
        text, negative = self.encode_prompts(request)  # (B, N, D) each

        # 4. Prepare the first latent: noise, or the encoded image with noise added
        noise, generators = initial_noise(request.seeds, request.latent_shape)  # (B, C, h, w)
        known = None if request.image is None else self.encode(request.image)
        x = first_latent(noise.to(self.device), known, times, self.path)

        # 5. Build the denoiser: the U-Net with classifier-free guidance; inpainting keeps the known part
        denoise = self.denoiser(text, negative, request.guidance_scale)
        if known is not None and request.mask is not None:
            denoise = keep_known(denoise, known, request.latent_mask, self.path)

        # 6. Denoise step by step; at strength 0 there is no step left
        if len(times) == 1:
            return iter([Step(0.0, x, x)])
        self.move_to_gpu(self.unet)
        steps = run_sampler(request.sampler, denoise, x, times, self.path, generator=generators, churn=request.churn)
        return progress_bar(steps, len(times) - 1, progress)

    def generate(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] = "",
        *,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
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
        callback: Callable[[Step, Tensor], None] | None = None,
        progress: bool = True,
    ) -> Tensor:
        """Generate images, float32 (B, 3, H, W) in [-1, 1].

        Args:
            prompt: one, or one per image.
            negative_prompt: what guidance moves away from.
            prompt_embeds: (B, N, D), what `encode_text` returned or what was made of it; with prompt=None.
            negative_prompt_embeds: (B, N, D) or (1, N, D) in place of the negative prompt.
            steps: of the sampler, 1 to 999; as in the original they start at about 1 - 1 / steps of the path, so a
                number just above a divisor of 1000 (such as 501) leaves much of it out.
            guidance_scale: 1 is none; published weights like 5 to 10.
            seed: image i takes all its noise from seed + i, whatever else is in the batch and on which device.
            height, width: pixels; None: the size of training, or of init_image.
            num_images: per prompt.
            sampler: a name in helpers.diffusion.SAMPLERS.
            sigmas: noise levels sigma / alpha of the steps: "karras", "exponential" or decreasing numbers, as many as
                steps; None: those of the model's training.
            churn: fresh noise before every step of "euler" and "heun" (EDM's S_churn); 0: none.
            init_image: image-to-image: a PIL image or (3, H, W) in [-1, 1] to start from, or one per prompt.
            strength: how much of it is regenerated: 0 nothing, 1 everything.
            mask_image: inpainting: white (1) is regenerated, black (0) is kept; a PIL image or (H, W) in [0, 1], or
                one per prompt.
            resize: crop and resize these PIL images to height and width, or to a size near the first one's.
            clip_skip: leave out the text encoder's last layers.
            weighted_prompts: read `(word:1.3)` as a weight, and prompts longer than 75 tokens to their end; see
                `helpers.text_to_image.weighted_prompts`.
            callback: called after every step with the step and a preview (B, 3, h, w) of its predicted x0.
            progress: show a bar.

        Raises:
            ValueError, TypeError: for bad arguments, before any work is done.
            FloatingPointError: at the first step whose state is NaN or infinite.
        """
        # 1. Check all arguments before any work
        request = Request(
            self.config.limits,
            prompt,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
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
            weighted_prompts=weighted_prompts,
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

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str], clip_skip: int = 0, weighted: bool = False) -> Tensor:
        """Hidden states of the prompts, (B, N, D), after the final norm. Warns where a prompt is too long.

        Args:
            clip_skip, weighted: as `clip_skip` and `weighted_prompts` of `generate`.
        """
        self.move_to_gpu(self.text)

        def encode(ids: Tensor) -> Tensor:
            return self.text(ids.to(self.device), clip_skip=clip_skip)

        return encode_weighted(prompts, self.tokenizer, encode) if weighted else encode(self.tokenizer(prompts))

    @torch.no_grad()
    def encode_prompts(self, request: Request) -> tuple[Tensor, Tensor | None]:
        """Hidden states (B, N, D) of the prompts, and of the negative prompts where there is guidance.

        Raises:
            ValueError: for embeddings of more tokens than the negative prompt has.
        """
        skip = request.clip_skip
        texts = request.prompts if request.prompt_embeds is None else []
        negative_texts = request.negative_prompts if request.guided and request.negative_prompt_embeds is None else []
        if request.weighted_prompts and (texts or negative_texts):  # together: all get as many chunks as the longest
            states = self.encode_text([*texts, *negative_texts], skip, weighted=True)
            encoded = list(states.tensor_split([len(texts)]))
        else:
            encoded = [self.encode_text(some, skip) if some else torch.empty(0) for some in (texts, negative_texts)]
        dtype = self.text.positions.dtype
        text = encoded[0] if texts else request.prompt_embeds.to(self.device, dtype)
        if not request.guided:
            return text, None
        negative = encoded[1] if negative_texts else request.negative_prompt_embeds.to(self.device, dtype)
        check_lengths(text, negative)
        return text, negative

    def times(self, steps: int, sigmas: str | Sequence[float] | None = None) -> Tensor:
        """(steps + 1,) decreasing times on the path: those of `Schedule.times`."""
        return self.schedule.times(steps, sigmas)

    def denoiser(self, text: Tensor, negative: Tensor | None, scale: float) -> Denoiser:
        """The function that samplers call: the U-Net, with classifier-free guidance away from `negative`.

        Args:
            text, negative: (B, N, D) hidden states; negative None: no guidance.
            scale: of the guidance.
        """
        dtype = text.dtype
        check_text_states({"states": text} | ({} if negative is None else {"negative states": negative}), dtype)
        context = text if negative is None else torch.cat([negative, text])

        def denoise(x: Tensor, t: float) -> Denoised:
            timestep = torch.full((len(context),), t * len(self.path) - 1, device=x.device).round()
            latents = x if negative is None else torch.cat([x, x])
            prediction = self.unet(channels_last(latents.to(dtype)), timestep, context).float()
            if negative is not None:
                unconditional, conditional = prediction.chunk(2)
                prediction = apply_guidance(conditional, unconditional, scale)
            alpha, sigma = self.path.alpha_sigma(torch.tensor(t))
            return convert_prediction(self.prediction, prediction, x, alpha.to(x), sigma.to(x))

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
        config: SD1Config | None = None,
        tokenizer: str | Path | None = None,
        variant: str | None = None,
        ema: bool = False,
        prediction: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> "StableDiffusion1":
        """Load published weights from a diffusers folder, a single file (.safetensors, .ckpt) or a hub id; strict.

        Args:
            source: for instance "stable-diffusion-v1-5/stable-diffusion-v1-5", or the path of v1-5-pruned.safetensors.
            config: sizes; None: the published ones.
            tokenizer: merges.txt or its folder, where the checkpoint brings none (a single file); None: CLIP's, which
                the course brings.
            variant: "fp16" for half-precision files of a folder or repository.
            ema: the averaged U-Net of a single file that holds both.
            prediction: "epsilon" or "v"; None: as the folder's scheduler says, "epsilon" for a single file.
            dtype, device: what to compute in, and where.

        Raises:
            FileNotFoundError: where something is not there; it says what was looked for.
            TypeError: for a dtype that is none.
            ValueError: for a bad option; for tensors that are missing, left over, of another shape or not finite, with
                the likeliest cause; for a configuration that the course does not follow.
        """
        # 1. Check the options before gigabytes are read
        check_dtype_and_device(dtype, device)
        if prediction is not None and prediction not in PREDICTION_TYPES.values():
            choices = " or ".join(map(repr, PREDICTION_TYPES.values()))
            raise ValueError(f"prediction must be {choices}, or None for what the checkpoint says; got {prediction!r}")
        if tokenizer is not None:
            BytePairTokenizer.from_file(tokenizer)

        # 2. Read the tensors and follow the configuration that comes with them
        parts = checkpoint.read(source, variant=variant, ema=ema, tokenizer=tokenizer)
        sizes = config or SD1Config.v1()
        config = replace(
            sizes,
            text=follow_clip_config(sizes.text, parts.configs["text"]),
            unet=checkpoint.unet_config(sizes.unet, parts.configs["unet"]),
            autoencoder=follow_kl_config(sizes.autoencoder, parts.configs["autoencoder"]),
        )
        bpe = BytePairTokenizer.from_file(parts.tokenizer, length=config.text.length)
        if len(bpe) != config.text.vocabulary:
            raise ValueError(
                f"the tokenizer of {parts.tokenizer} knows {len(bpe):,} tokens, the text encoder "
                f"{config.text.vocabulary:,}: pass the tokenizer= that belongs to it"
            )

        # 3. Build the networks and load them, strictly
        with torch.device("meta"):  # no time and no memory for initial weights that are replaced at once
            text = TextTower(config.text)
            unet = UNet(config.unet)
            autoencoder = KLAutoencoder(config.autoencoder)
        unet_names = checkpoint.unet_names(config.unet, parts.layout)
        autoencoder_names = kl.published_names(config.autoencoder, parts.layout)
        for part, name, network, tensors, key_mapping in (
            ("text", "text encoder", text, parts.text, TEXT_NAMES),
            ("unet", "U-Net", unet, parts.unet, unet_names),
            ("autoencoder", "autoencoder", autoencoder, parts.autoencoder, autoencoder_names),
        ):
            load_pretrained(
                network,
                tensors,
                key_mapping,
                what=f"the {name} of Stable Diffusion 1",
                dtype=dtype,
                hint=lambda: checkpoint.guess_model(parts.unet),
                place=parts.places[part],
            )
        prediction = prediction or parts.schedule.prediction
        model = cls(bpe, text, unet, autoencoder, config.size, prediction, schedule=parts.schedule)
        return model.to(device).to(memory_format=torch.channels_last).eval()

    @classmethod
    def from_weights(
        cls,
        name_or_path: str | Path = "sd1",
        clip: str | Path = "clip",
        autoencoder: str | Path = "autoencoder",
        device: str | torch.device = "cpu",
    ) -> "StableDiffusion1":
        """Load the tiny system: the U-Net of `python -m helpers.sd1.train`, and the parts it was trained with.

        Raises:
            FileNotFoundError, ValueError: as `load_weights` does, and where the parts are others than in training.
        """
        config = read_config(name_or_path)
        check_parts("sd1", "U-Net", name_or_path, config, {"clip": clip, "autoencoder": autoencoder})
        clip_model, tokenizer = CLIP.from_weights(clip)
        unet = UNet(UNetConfig(**config["unet"]))
        load_weights(unet, name_or_path)
        kl_autoencoder = KLAutoencoder.from_weights(autoencoder)
        rgb_factors = config["latent_rgb_factors"]
        model = cls(tokenizer, clip_model.text, unet, kl_autoencoder, config["size"], rgb_factors=rgb_factors)
        return model.to(device).to(memory_format=torch.channels_last).eval()

    def save(self, path: str | Path, metadata: dict[str, str], parts: dict[str, str]) -> None:
        """Write the U-Net (fp16), with the checksums of the "clip" and "autoencoder" files that it goes with."""
        config = {
            "unet": asdict(self.config.unet),
            "size": self.config.size,
            "latent_rgb_factors": self.rgb_factors.tolist(),
            "parts": parts,
        }
        save_with_config(self.unet, config, path, metadata)
