"""Stable Diffusion 3 from prompt to picture: three encoders read, a transformer says where to move, a decoder paints.

Alphabet: B pictures, H W their size in pixels, C latent channels, h = H / factor, w = W / factor.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.autoencoders import kl
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.diffusion import Denoised, FlowPath, Step, apply_guidance, convert_prediction
from helpers.diffusion.samplers import Denoiser
from helpers.sd3 import checkpoint
from helpers.sd3.encoders import Condition, TextEncoders, clip_g, clip_l
from helpers.sd3.mmdit import MMDiT, MMDiTConfig
from helpers.text.bpe import BytePairTokenizer
from helpers.text.clip import TEXT_NAMES, CLIPTowerConfig, TextTower
from helpers.text.contrastive import CLIP
from helpers.text.t5 import T5_NAMES, T5Config, T5Encoder, T5Tokenizer
from helpers.text_to_image.pipeline import LatentDiffusion, channels_last
from helpers.text_to_image.request import Limits, Request, texts, within
from helpers.weights import TRAINING_COMMANDS, load_weights, read_config, read_metadata, save_with_config
from helpers.weights.pretrained import load_pretrained

# A latent's sixteen channels to red, green and blue, for the published weights:
# https://github.com/Stability-AI/sd3-ref/blob/master/sd3_impls.py
SD3_PREVIEW = (
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

    @property
    def limits(self) -> Limits:
        """What follows from the sizes for a request."""
        factor = self.autoencoder.downsampling_factor
        token = self.autoencoder.downsampling_factor * self.transformer.patch
        return Limits(
            self.size,
            token,
            factor,
            self.transformer.latent_channels,
            min(self.clip_l.layers, self.clip_g.layers) - 1,
            token * self.transformer.table,
        )


class SD3Request(Request):
    """A checked wish, with what only Stable Diffusion 3 can be asked for."""

    def __init__(
        self,
        limits: Limits,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        *,
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        use_t5: bool = True,
        steps: int = 28,
        guidance_scale: float = 7.0,
        sampler: str = "euler",
        shift: float | None = None,
        skip_layers: Collection[int] = (),
        skip_scale: float = 2.8,
        skip_from: float = 0.01,
        skip_until: float = 0.2,
        layers: int = 24,
        **options,
    ):
        """Arguments as for `StableDiffusion3.generate`; `layers`: how many the transformer has."""
        super().__init__(
            limits, prompt, negative_prompt, steps=steps, guidance_scale=guidance_scale, sampler=sampler, **options
        )
        each = options.get("num_images", 1)
        self.prompts_2, self.prompts_3 = (
            None if given is None else texts(name, given, each, like=self.prompts)
            for name, given in (("prompt_2", prompt_2), ("prompt_3", prompt_3))
        )
        self.use_t5 = use_t5
        self.shift = None if shift is None else within("shift", shift, 0.01, 100, float)
        skip_layers = skip_layers if isinstance(skip_layers, Collection) else [skip_layers]
        self.skip_layers = [within("skip_layers", layer, 0, layers - 1, int) for layer in skip_layers]
        if self.skip_layers and self.guidance_scale == 1:
            raise ValueError("skip_layers adds to guidance: set a guidance_scale other than 1")
        self.skip_scale = within("skip_scale", skip_scale, 0, 100, float)
        window = [
            within(name, value, 0, 1, float) * self.steps
            for name, value in (("skip_from", skip_from), ("skip_until", skip_until))
        ]
        self.skip_steps = [i for i in range(self.skipped, self.steps) if window[0] < i < window[1]]
        if self.skip_layers and not self.skip_steps:
            raise ValueError(
                f"skip_layers would act in none of the {self.steps - self.skipped} steps: "
                "take more steps, or widen skip_from..skip_until"
            )


class StableDiffusion3(LatentDiffusion):
    """Encoders, transformer and autoencoder; `helpers.text_to_image.pipeline` is the walk that joins them."""

    def __init__(
        self,
        encoders: TextEncoders,
        transformer: MMDiT,
        autoencoder: KLAutoencoder,
        config: SD3Config,
        preview: Any = SD3_PREVIEW,
    ):
        """
        Args:
            preview: (16, 3) from a latent's channels to red, green and blue.
        """
        super().__init__(autoencoder, FlowPath(), config.limits, preview)
        self.config = config
        self.encoders = encoders
        self.transformer = transformer
        self.card: torch.device | None = None  # where the networks take turns, see `take_turns`

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path,
        *,
        config: SD3Config | None = None,
        t5: bool = True,
        variant: str | None = None,
        encoders: str | Path | None = None,
        tokenizers: tuple[str | Path, str | Path] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> "StableDiffusion3":
        """Published weights of Stable Diffusion 3 and 3.5, in every size; strict.

        Args:
            source: for instance "stabilityai/stable-diffusion-3-medium-diffusers" (ask for access there), a diffusers
                folder, or a single file such as sd3_medium_incl_clips.safetensors.
            config: sizes; None: the published ones. The transformer's are read off its tensors in any case, and the
                shift off the folder's scheduler (3 for a single file).
            t5: False leaves the largest text encoder out.
            variant, encoders, tokenizers: as for `checkpoint.read`.
            dtype, device: what to compute in, and where.

        Raises:
            FileNotFoundError: where something is not there; it says what was looked for.
            ValueError: for tensors that are missing, left over or of another shape.
        """
        found = checkpoint.read(source, variant=variant, t5=t5, encoders=encoders, tokenizers=tokenizers)
        sizes = checkpoint.inferred(found.transformer)
        config = replace(config or SD3Config(), transformer=sizes, shift=found.shift)
        words = BytePairTokenizer.from_file(found.tokenizers[0], length=config.clip_l.length)
        t5_words = T5Tokenizer.from_file(found.tokenizers[1], config.t5_length) if found.t5 is not None else None
        if len(words) != config.clip_l.vocabulary or (t5_words and len(t5_words) > config.t5.vocabulary):
            known = [f"{len(read):,}" for read in (words, t5_words) if read]
            raise ValueError(
                f"tokenizers of {' and '.join(known)} tokens do not belong to text encoders of "
                f"{config.clip_l.vocabulary:,} and {config.t5.vocabulary:,}: pass others as tokenizers="
            )
        with torch.device("meta"):  # no time and no memory for first weights that are replaced at once
            networks = {
                "transformer": MMDiT(sizes),
                "autoencoder": KLAutoencoder(config.autoencoder),
                "clip_l": TextTower(config.clip_l),
                "clip_g": TextTower(config.clip_g),
            }
            if found.t5 is not None:
                networks["t5"] = T5Encoder(config.t5)
        naming = {
            "transformer": checkpoint.transformer_names(found.layout),
            "clip_l": TEXT_NAMES,
            "clip_g": TEXT_NAMES,
            "autoencoder": kl.published_names(config.autoencoder, AUTOENCODERS[found.layout]),
            "t5": T5_NAMES,
        }
        for part, network in networks.items():
            tensors = getattr(found, part)
            if part == "transformer":
                tensors = checkpoint.plain(tensors, sizes, found.layout)
            load_pretrained(network, tensors, naming[part], what=f"the {part} of Stable Diffusion 3", dtype=dtype)
        if "t5" in networks and dtype == torch.float16:
            networks["t5"].keep_output_projections_in_fp32()
        readers = TextEncoders(
            networks["clip_l"],
            networks["clip_g"],
            networks.get("t5"),
            words,
            t5_words,
            sizes.text_width,
            config.t5_length,
        )
        model = cls(readers, networks["transformer"], networks["autoencoder"], config, SD3_PREVIEW)
        return model.to(device, memory_format=torch.channels_last).eval()

    @classmethod
    def from_weights(
        cls,
        name_or_path: str | Path = "sd3",
        clip: str | Path = "clip",
        autoencoder: str | Path = "autoencoder_16",
        device: str | torch.device = "cpu",
    ) -> "StableDiffusion3":
        """The tiny system: what `python -m helpers.sd3.train` trained, and the parts that it was trained with.

        Raises:
            FileNotFoundError, ValueError: as `load_weights` does, and where the parts are others than in training.
        """
        import tokenizers

        about = read_config(name_or_path)
        for part, file in (("clip", clip), ("autoencoder", autoencoder)):
            if read_metadata(file)["sha256"] != about["parts"][part]:
                raise ValueError(
                    f"the transformer {name_or_path} was trained with other weights of the {part} than "
                    f"{file}: train it again, {TRAINING_COMMANDS['sd3']}"
                )
        (pair, words) = CLIP.from_weights(clip)
        painter = KLAutoencoder.from_weights(autoencoder)
        sizes = MMDiTConfig(**about["transformer"])
        second = CLIPTowerConfig(**about["clip_g"])
        third = T5Config(**about["t5"])
        rest = {name: about[name] for name in ("t5_length", "size", "shift")}
        config = SD3Config(sizes, painter.config, pair.text.config, second, third, **rest)
        own = nn.ModuleDict({"transformer": MMDiT(sizes), "clip_g": TextTower(second), "t5": T5Encoder(third)})
        load_weights(own, name_or_path)
        t5_words = T5Tokenizer(tokenizers.Tokenizer.from_str(about["t5_words"]), config.t5_length)
        readers = TextEncoders(pair.text, own["clip_g"], own["t5"], words, t5_words, sizes.text_width, config.t5_length)
        return cls(readers, own["transformer"], painter, config, about["preview"]).to(device).eval()

    def save(self, path: str | Path, metadata: dict[str, str], parts: dict[str, str]) -> None:
        """Write transformer, second and third encoder (fp16), with the checksums of the files that they go with."""
        config = self.config
        readers = self.encoders
        about = {
            "transformer": asdict(config.transformer),
            "clip_g": asdict(config.clip_g),
            "t5": asdict(config.t5),
            "t5_length": config.t5_length,
            "size": config.size,
            "shift": config.shift,
            "parts": parts,
            "preview": self.preview.tolist(),
            "t5_words": readers.t5_words.tokenizer.to_str(),
        }
        own = nn.ModuleDict({"transformer": self.transformer, "clip_g": readers.clip_g, "t5": readers.t5})
        save_with_config(own, about, path, metadata)

    def take_turns(self, card: str | torch.device) -> "StableDiffusion3":
        """Keep the networks in main memory, and bring each to the card only while it works."""
        self.card = torch.device(card)
        return self.to("cpu")

    def _bring(self, module: nn.Module) -> None:
        if self.card is not None:
            for other in (self.encoders, self.transformer, self.autoencoder):
                if other is not module:
                    other.to("cpu")
            module.to(self.card)  # once there is room

    @property
    def device(self) -> torch.device:
        return self.card or next(self.transformer.parameters()).device

    def decode(self, latents: Tensor) -> Tensor:
        self._bring(self.autoencoder)
        return super().decode(latents)

    def encode(self, picture: Tensor) -> Tensor:
        self._bring(self.autoencoder)
        return super().encode(picture)

    # --- what the walk asks for -----------------------------------------------------------------------------------

    def times(self, steps: int, shift: float | None = None) -> Tensor:
        """(steps + 1,) shares of noise, from 1 to 0: evenly spaced, then shifted towards noise (SD3, eq. 23).

        Both references shift the last time twice: once when they set the schedule up, once when they use it.
        """
        shift = self.config.shift if shift is None else shift
        smallest = shifted(torch.tensor(1e-3, dtype=torch.float64), shift).item()
        times = shifted(torch.linspace(1, smallest, steps, dtype=torch.float64), shift)
        return torch.cat([times, torch.zeros(1)]).float()

    def times_for(self, request: SD3Request) -> Tensor:
        return self.times(request.steps, request.shift)

    def request(self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] = "", **options) -> SD3Request:
        silent = self.encoders.t5 is None or not options.get("use_t5", True)
        if silent and options.get("prompt_3") is not None:
            raise ValueError("prompt_3 is for T5, which is not loaded or switched off (use_t5=False)")
        return SD3Request(self.limits, prompt, negative_prompt, layers=self.config.transformer.layers, **options)

    def asked(self, request: SD3Request) -> Denoiser:
        self._bring(self.encoders)
        read = self.encoders(request.prompts, request.prompts_2, request.prompts_3, request.clip_skip, request.use_t5)
        guided = request.guidance_scale != 1
        negative = self.encoders(request.negatives, use_t5=request.use_t5) if guided else None  # never skips layers
        self._bring(self.transformer)
        times = self.times_for(request)
        skipped = {round(times[i].item(), 6) for i in request.skip_steps} if request.skip_layers else set()
        return self.denoiser(read, negative, request.guidance_scale, skipped, request.skip_layers, request.skip_scale)

    def denoiser(
        self,
        read: Condition,
        negative: Condition | None,
        scale: float,
        skipped: Collection[float] = (),
        skip_layers: Sequence[int] = (),
        skip_scale: float = 0.0,
    ) -> Denoiser:
        """What a sampler asks: the transformer, guided away from `negative` where it is given.

        At the times `skipped` it is also led away from what it says without some of its layers (Stable Diffusion
        3.5's skip-layer guidance).
        """
        both = read if negative is None else negative.joined(read)

        def velocity(x: Tensor, t: float, condition: Condition, skip: Collection[int] = ()) -> Tensor:
            time = torch.full((len(x),), t, device=x.device)
            x = channels_last(x.to(condition.text.dtype))
            return self.transformer(x, time, *condition, skip_layers=skip).float()

        def denoise(x: Tensor, t: float) -> Denoised:
            answer = velocity(x if negative is None else torch.cat([x, x]), t, both)
            if negative is not None:
                without, with_prompt = answer.chunk(2)
                answer = apply_guidance(with_prompt, without, scale)
                if round(t, 6) in skipped:
                    answer = answer + skip_scale * (with_prompt - velocity(x, t, read, skip_layers))
            return convert_prediction("velocity", answer, x, torch.tensor(1 - t), torch.tensor(t))

        return denoise

    def generate(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        *,
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        use_t5: bool = True,
        steps: int = 28,
        guidance_scale: float = 7.0,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        num_images: int = 1,
        sampler: str = "euler",
        init_image: Any = None,
        strength: float = 0.8,
        mask_image: Any = None,
        clip_skip: int = 0,
        shift: float | None = None,
        skip_layers: Collection[int] = (),
        skip_scale: float = 2.8,
        skip_from: float = 0.01,
        skip_until: float = 0.2,
        callback: Callable[[Step, Tensor], None] | None = None,
        progress: bool = True,
    ) -> Tensor:
        """Pictures, float32 (B, 3, H, W) in [-1, 1].

        Args:
            prompt: one, or one per picture; all three encoders read it,
            prompt_2, prompt_3: unless the second (CLIP-G) or third (T5) is given another.
            negative_prompt: what guidance moves away from.
            use_t5: False puts zeros where T5's states would be, as the model saw them in training now and then.
            steps: of the sampler, 1 to 999.
            guidance_scale: 1 is none.
            seed: picture i starts from noise of seed + i, whatever else is made beside it and on which device.
            height, width: pixels; None: the size of training, or of init_image.
            num_images: per prompt.
            sampler: a name in helpers.diffusion.SAMPLERS.
            init_image, strength, mask_image: image to image and inpainting, as for Stable Diffusion 1.
            clip_skip: leave out that many more of the CLIPs' last layers.
            shift: of the times towards noise; None: the model's own, 1: evenly spaced.
            skip_layers: of the transformer, for skip-layer guidance: 7, 8 and 9 in Stable Diffusion 3.5 medium.
            skip_scale: how far it leads; skip_from, skip_until: in which part of the steps.
            callback: called after every step with the step and a preview (B, 3, h, w) of where it leads.
            progress: show a bar.

        Raises:
            ValueError, TypeError: for bad arguments, before any work is done.
        """
        request = self.request(
            prompt,
            negative_prompt,
            prompt_2=prompt_2,
            prompt_3=prompt_3,
            use_t5=use_t5,
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
            shift=shift,
            skip_layers=skip_layers,
            skip_scale=skip_scale,
            skip_from=skip_from,
            skip_until=skip_until,
        )
        return self.drawn(request, callback, progress)


def shifted(t: Tensor, shift: float) -> Tensor:
    """t' = s t / (1 + (s - 1) t): more of the way at high noise, for larger pictures hide noise better."""
    return shift * t / (1 + (shift - 1) * t)
