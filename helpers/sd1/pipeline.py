"""Stable Diffusion 1 from prompt to picture: text to states, noise to latent under their guidance, latent to picture.

Alphabet: B pictures, H W their size in pixels, C latent channels, h = H / factor, w = W / factor.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.autoencoders import kl
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.diffusion import DDPMPath, Denoised, Step, apply_guidance, convert_prediction
from helpers.diffusion.samplers import Denoiser
from helpers.sd1 import checkpoint
from helpers.sd1.unet import UNet, UNetConfig
from helpers.text.bpe import BytePairTokenizer
from helpers.text.clip import TEXT_NAMES, CLIPTowerConfig, TextTower
from helpers.text.contrastive import CLIP
from helpers.text_to_image.pipeline import LatentDiffusion, channels_last
from helpers.text_to_image.request import Limits, Request
from helpers.weights import TRAINING_COMMANDS, load_weights, read_config, read_metadata, save_with_config
from helpers.weights.pretrained import load_pretrained

# A latent's four channels to red, green and blue, fitted by eye and regression for the published weights:
# https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204
V1_PREVIEW = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))


@dataclass(frozen=True)
class SD1Config:
    """Sizes of the three networks; the defaults are the published ones."""

    text: CLIPTowerConfig = CLIPTowerConfig()
    unet: UNetConfig = UNetConfig()
    autoencoder: KLConfig = KLConfig()
    size: int = 512  # pixels a side that it was trained on

    @classmethod
    def v1(cls) -> "SD1Config":
        """Stable Diffusion 1.1 to 1.5, 1,066,235,307 parameters."""
        return cls()

    @property
    def limits(self) -> Limits:
        """What follows from the sizes for a request."""
        factor = self.autoencoder.downsampling_factor
        return Limits(self.size, factor, factor, self.unet.latent_channels, self.text.layers)


class StableDiffusion1(LatentDiffusion):
    """Tokenizer, text encoder, U-Net and autoencoder; `helpers.text_to_image.pipeline` is the walk that joins them."""

    def __init__(
        self,
        tokenizer: BytePairTokenizer,
        text: TextTower,
        unet: UNet,
        autoencoder: KLAutoencoder,
        size: int,
        prediction: str = "epsilon",
        preview: Any = V1_PREVIEW,
    ):
        """
        Args:
            size: pixels a side that the U-Net was trained on.
            prediction: what the U-Net says: "epsilon", or "v" in some fine-tunes.
            preview: (C, 3) from a latent's channels to red, green and blue.
        """
        config = SD1Config(text.config, unet.config, autoencoder.config, size)
        super().__init__(autoencoder, DDPMPath.scaled_linear(), config.limits, preview)
        self.config = config
        self.tokenizer = tokenizer
        self.text = text
        self.unet = unet
        self.prediction = prediction

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
        """Published weights, from a diffusers folder, a single file (.safetensors, .ckpt) or a hub id; strict.

        Args:
            source: for instance "stable-diffusion-v1-5/stable-diffusion-v1-5", or the path of v1-5-pruned.safetensors.
            config: sizes; None: the published ones.
            tokenizer: merges.txt or its folder, where the checkpoint brings none (a single file); None: from the hub.
            variant: "fp16" for half-precision files of a folder or repository.
            ema: the averaged U-Net of a single file that holds both.
            prediction: "epsilon" or "v"; None: as the folder's scheduler says, "epsilon" for a single file.
            dtype, device: what to compute in, and where.

        Raises:
            FileNotFoundError: where something is not there; it says what was looked for.
            ValueError: for tensors that are missing, left over or of another shape, with the likeliest cause.
        """
        config = config or SD1Config.v1()
        found = checkpoint.read(source, variant=variant, ema=ema, tokenizer=tokenizer)
        words = BytePairTokenizer.from_file(found.tokenizer, length=config.text.length)
        if len(words) != config.text.vocabulary:
            raise ValueError(
                f"the tokenizer of {found.tokenizer} knows {len(words):,} tokens, the text encoder "
                f"{config.text.vocabulary:,}: pass the tokenizer= that belongs to it"
            )
        with torch.device("meta"):  # no time and no memory for first weights that are replaced at once
            networks = TextTower(config.text), UNet(config.unet), KLAutoencoder(config.autoencoder)
        parts = [
            ("text encoder", found.text, TEXT_NAMES),
            ("U-Net", found.unet, checkpoint.unet_names(config.unet, found.layout)),
            ("autoencoder", found.autoencoder, kl.published_names(config.autoencoder, found.layout)),
        ]
        for module, (name, tensors, key_mapping) in zip(networks, parts, strict=True):
            load_pretrained(
                module,
                tensors,
                key_mapping,
                what=f"the {name} of Stable Diffusion 1",
                dtype=dtype,
                hint=lambda: checkpoint.likeliest_cause(found.unet),
            )
        model = cls(words, *networks, config.size, prediction or found.prediction)
        return model.to(device, memory_format=torch.channels_last).eval()

    @classmethod
    def from_weights(
        cls,
        name_or_path: str | Path = "sd1",
        clip: str | Path = "clip",
        autoencoder: str | Path = "autoencoder",
        device: str | torch.device = "cpu",
    ) -> "StableDiffusion1":
        """The tiny system: a U-Net that `python -m helpers.sd1.train` trained, and the parts that it was trained with.

        Raises:
            FileNotFoundError, ValueError: as `load_weights` does, and where the parts are others than in training.
        """
        about = read_config(name_or_path)
        for part, file in (("clip", clip), ("autoencoder", autoencoder)):
            if read_metadata(file)["sha256"] != about["parts"][part]:
                raise ValueError(
                    f"the U-Net {name_or_path} was trained with other weights of the {part} than {file}: "
                    f"train it again, {TRAINING_COMMANDS['sd1']}"
                )
        pair, tokenizer = CLIP.from_weights(clip)
        unet = UNet(UNetConfig(**about["unet"]))
        load_weights(unet, name_or_path)
        parts = tokenizer, pair.text, unet, KLAutoencoder.from_weights(autoencoder)
        model = cls(*parts, about["size"], preview=about["preview"])
        return model.to(device, memory_format=torch.channels_last).eval()

    def save(self, path: str | Path, metadata: dict[str, str], parts: dict[str, str]) -> None:
        """Write the U-Net (fp16), with the checksums of the "clip" and "autoencoder" files that it goes with."""
        about = {
            "unet": asdict(self.config.unet),
            "size": self.config.size,
            "preview": self.preview.tolist(),
            "parts": parts,
        }
        save_with_config(self.unet, about, path, metadata)

    # --- what the walk asks for -----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str], clip_skip: int = 0) -> Tensor:
        """(B, N, D) states, one per token, after the final norm. Warns where a prompt is too long."""
        return self.text(self.tokenizer(prompts).to(self.device), skip=clip_skip)

    def times(self, steps: int) -> Tensor:
        """(steps + 1,) times on the path, the reference's ("leading") choice: training steps 1, 1 + k, 1 + 2k, ...

        The U-Net's timestep n is the state after n + 1 steps of noise, so t = (n + 1) / 1000; the walk ends at
        timestep 0, where a last trace of noise is left.
        """
        trained = torch.arange(steps) * (len(self.path) // steps) + 1  # training's timesteps, rising
        return torch.cat([(trained.flip(0) + 1), torch.ones(1)]) / len(self.path)

    def asked(self, request: Request) -> Denoiser:
        text = self.encode_text(request.prompts, request.clip_skip)
        negative = self.encode_text(request.negatives, request.clip_skip) if request.guidance_scale != 1 else None
        return self.denoiser(text, negative, request.guidance_scale)

    def denoiser(self, text: Tensor, negative: Tensor | None, scale: float) -> Denoiser:
        """What a sampler asks: the U-Net, guided away from `negative` (B, N, D) where it is given."""
        dtype = text.dtype
        both = text if negative is None else torch.cat([negative, text])

        def denoise(x: Tensor, t: float) -> Denoised:
            timestep = torch.full((len(both),), t * len(self.path) - 1, device=x.device).round()
            doubled = x if negative is None else torch.cat([x, x])
            answer = self.unet(channels_last(doubled.to(dtype)), timestep, both).float()
            if negative is not None:
                without, with_prompt = answer.chunk(2)
                answer = apply_guidance(with_prompt, without, scale)
            alpha, sigma = self.path.alpha_sigma(torch.tensor(t))
            return convert_prediction(self.prediction, answer, x, alpha.to(x), sigma.to(x))

        return denoise

    def generate(
        self,
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
        callback: Callable[[Step, Tensor], None] | None = None,
        progress: bool = True,
    ) -> Tensor:
        """Pictures, float32 (B, 3, H, W) in [-1, 1].

        Args:
            prompt: one, or one per picture.
            negative_prompt: what guidance moves away from.
            steps: of the sampler, 1 to 999; as in the original they start at about 1 - 1 / steps of the path, so a
                number just above a divisor of 1000 (such as 501) leaves much of it out.
            guidance_scale: 1 is none; published weights like 5 to 10.
            seed: picture i starts from noise of seed + i, whatever else is made beside it and on which device.
            height, width: pixels; None: the size of training, or of init_image.
            num_images: per prompt.
            sampler: a name in helpers.diffusion.SAMPLERS.
            init_image: image to image: a PIL picture or (3, H, W) in [-1, 1] to start from.
            strength: how much of it is redrawn: 0 nothing, 1 everything.
            mask_image: inpainting: white (1) is redrawn, black (0) is kept; a PIL picture or (H, W) in [0, 1].
            clip_skip: leave out the text encoder's last layers.
            callback: called after every step with the step and a preview (B, 3, h, w) of where it leads.
            progress: show a bar.

        Raises:
            ValueError, TypeError: for bad arguments, before any work is done.
        """
        request = self.request(
            prompt,
            negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
            height=height,
            width=width,
            num_images=num_images,
            sampler=sampler,
            init_image=init_image,
            strength=strength,
            mask_image=mask_image,
            clip_skip=clip_skip,
        )
        return self.drawn(request, callback, progress)
