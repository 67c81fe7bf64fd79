"""Tiny Stable Diffusion as one object: network, codec (what is diffused) and objective (what is predicted)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.data.captions import VOCABULARY, tokenize
from helpers.data.sizes import Size, height_and_width, plain_size, square_side
from helpers.diffusion import Denoised, Objective, Step, convert_prediction, guided_denoiser, time_grid
from helpers.diffusion.samplers import Denoiser, check_sampler, finite_steps, initial_noise, run_sampler
from helpers.text_to_image.request import check_integer, check_number
from helpers.tiny_sd.codecs import Codec, PixelCodec, load_codec
from helpers.tiny_sd.own_captions import CaptionTokenizer
from helpers.tiny_sd.perceptual import PerceptualLoss
from helpers.tiny_sd.unet import NO_CLASS, TinyUNet, UNetConfig
from helpers.weights import find_weights, load_weights, read_config, save_with_config, weights_path

MAX_SEED = 2**62  # far below what a generator takes: each image adds its position to it


class TinySD(nn.Module):
    """Generates images from a class, from a caption, or from both."""

    def __init__(
        self,
        config: UNetConfig,
        objective: str,
        class_names: Sequence[str],
        size: Size,
        codec: Codec,
        shift: float = 1.0,
        tokenizer: CaptionTokenizer | None = None,
    ):
        """
        Args:
            config: sizes of the network; `config.vocab_size` 0 builds one without captions.
            objective: "flow" or "epsilon" (see Objective.named).
            class_names: in the order of the labels.
            size: of the images it is trained on, pixels per side, or height and width.
            codec: what is diffused.
            shift: of the times towards noise, in training and sampling (SD3, eq. 23); 1: none.
            tokenizer: of the captions; None: they are those of the synthetic faces, if the network has captions.

        Raises:
            ValueError: for a network with another number of channels than the codec's latents, or another number of
                tokens than the tokenizer, and for an objective that does not exist or has no shift.
        """
        super().__init__()
        if config.channels != codec.channels:
            raise ValueError(
                f"the codec {codec.name!r} gives {codec.channels} channels, the network takes "
                f"{config.channels}: UNetConfig(channels={codec.channels})"
            )
        if tokenizer is not None and len(tokenizer) != config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens and the network {config.vocab_size}: "
                f"UNetConfig(vocab_size={len(tokenizer)})"
            )
        self.unet = TinyUNet(config)
        self.codec = codec
        self.height, self.width = height_and_width(size)
        self.objective_name = objective
        self.shift = shift
        self.objective = Objective.named(objective, shift)
        self.class_names = tuple(class_names)
        self.tokenizer = tokenizer
        self.perceptual: PerceptualLoss | None = None  # a training may set it

    @property
    def size(self) -> int:
        """Pixels per side of square images. Raises ValueError for others: see `height` and `width`."""
        return square_side((self.height, self.width))

    def describe(self) -> dict[str, Any]:
        """The argument of `from_description` that builds it anew, as plain JSON values."""
        config = asdict(self.unet.config)
        if not config["augmentation"]:  # a field that older checkpoints do not have
            del config["augmentation"]
        description = {
            "config": config,
            "objective": self.objective_name,
            "size": plain_size((self.height, self.width)),
            "class_names": list(self.class_names),
            "codec": self.codec.describe(),
        }
        if self.shift != 1:  # another field that older checkpoints do not have
            description["shift"] = self.shift
        if self.tokenizer is not None:  # likewise
            description["tokenizer"] = self.tokenizer.describe()
        return description

    @classmethod
    def from_description(
        cls, description: dict[str, Any], autoencoder: str | Path | None = None, weights: Path | None = None
    ) -> TinySD:
        """Build an untrained TinySD of the described sizes. Arguments and errors as for `load_codec`."""
        tokenizer = description.get("tokenizer")
        return cls(
            UNetConfig(**description["config"]),
            description["objective"],
            description["class_names"],
            description["size"],
            load_codec(description["codec"], autoencoder, weights),
            description.get("shift", 1.0),
            None if tokenizer is None else CaptionTokenizer.from_description(tokenizer),
        )

    @classmethod
    def from_weights(
        cls, name_or_path: str | Path, device: str | torch.device = "cpu", autoencoder: str | Path | None = None
    ) -> TinySD:
        """Load weights that `python -m helpers.tiny_sd.train` wrote, ready to generate.

        Args:
            name_or_path: of the network's weights.
            device: to compute on.
            autoencoder: the one it was trained with; None: looked for, see `load_codec`.

        Raises:
            FileNotFoundError, ValueError: as `helpers.weights.load_weights` and `load_codec` do.
        """
        path = find_weights(name_or_path)
        is_shipped = path == weights_path(str(name_or_path))  # by its name: nothing beside it belongs to it
        model = cls.from_description(read_config(path), autoencoder, None if is_shipped else path)
        load_weights(model.unet, name_or_path)
        return model.to(device).eval()

    def _apply(self, fn: Callable, recurse: bool = True) -> TinySD:
        """Called by to(), cuda() and cpu(): codec and perceptual loss, no parts of the network, move with it."""
        super()._apply(fn, recurse)
        device = next(self.parameters()).device
        self.codec.to(device)
        if self.perceptual is not None:
            self.perceptual.to(device)
        return self

    def save(self, path: str | Path, metadata: dict[str, str]) -> None:
        """Write the network's weights (fp16) with all that is needed to build it anew."""
        save_with_config(self.unet, self.describe(), path, metadata)

    def losses(
        self,
        latents: Tensor,
        eps: Tensor,
        t: Tensor,
        labels: Tensor,
        captions: Tensor | None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """Compute the training losses, (B,).

        Args:
            latents, eps: (B, C, H, W) what is diffused, and noise.
            t: (B,) times.
            labels: int64 (B,), NO_CLASS where dropped; captions: int64 (B, L), zeros where dropped, or None.
            augmentation: (B, P) parameters of the augmentation that was applied to the images, or None.
        """
        x_t = self.objective.path.add_noise(latents, eps, t)
        model_output = self.unet(x_t, t, labels, captions, augmentation).float()
        losses = self.objective.losses(model_output, latents, eps, t, x_t)
        if self.perceptual is None:
            return losses
        return losses + self.perceptual(self._converted(model_output, x_t, t).x0, latents, t)

    def denoising_losses(
        self, latents: Tensor, eps: Tensor, t: Tensor, labels: Tensor, captions: Tensor | None
    ) -> Tensor:
        """The losses of `losses` without a perceptual part, (B,): they compare over all trainings of an objective."""
        x_t = self.objective.path.add_noise(latents, eps, t)
        model_output = self.unet(x_t, t, labels, captions).float()
        return self.objective.losses(model_output, latents, eps, t, x_t)

    def forward(self, *args: Tensor) -> Tensor:
        """Call `losses`; several processes wrap and call this."""
        return self.losses(*args)

    def _converted(self, model_output: Tensor, x: Tensor, t: Tensor) -> Denoised:
        """The network's output at x as (x0, eps); t (B,)."""
        alpha, sigma = self.objective.path.alpha_sigma(t)
        return convert_prediction(self.objective.prediction, model_output, x, alpha, sigma)

    def _denoise(self, x: Tensor, t: float, *, labels: Tensor, captions: Tensor | None) -> Denoised:
        """Evaluate the network once, at one time for the whole batch."""
        times = torch.full((len(x),), t, device=x.device)
        return self._converted(self.unet(x, times, labels, captions).float(), x, times)

    def denoiser(
        self,
        labels: Tensor,
        captions: Tensor | None,
        guidance_scale: float,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
    ) -> Denoiser:
        """Build the denoiser that a sampler calls: the network with these conditions, and classifier-free guidance.

        In pixels the predicted image is clipped to [-1, 1], as in DDPM's code, so that guidance cannot over-expose it.

        Args:
            labels: int64 (B,); captions: int64 (B, L) or None.
            guidance_scale: 1 is none.
            guidance_interval: times between which guidance is used.
        """
        empty = None if captions is None else torch.zeros_like(captions)
        conditional = partial(self._denoise, labels=labels, captions=captions)
        unconditional = partial(self._denoise, labels=torch.full_like(labels, NO_CLASS), captions=empty)
        denoise = guided_denoiser(conditional, unconditional, guidance_scale, guidance_interval)
        return partial(self._clipped, denoise) if isinstance(self.codec, PixelCodec) else denoise

    def _clipped(self, denoise: Denoiser, x: Tensor, t: float) -> Denoised:
        """Evaluate a denoiser and clip its x0 to [-1, 1]; eps follows."""
        alpha, sigma = self.objective.path.alpha_sigma(torch.full((len(x),), t, device=x.device))
        return convert_prediction("x0", denoise(x, t).x0.clamp(-1, 1), x, alpha, sigma)

    def sample_steps(
        self,
        labels: Sequence[int | str] | None = None,
        prompts: Sequence[str] | None = None,
        *,
        steps: int = 24,
        guidance_scale: float = 2.0,
        sampler: str = "dpm_solver_pp_2m",
        seed: int = 0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
    ) -> Iterator[Step]:
        """Generate, yielding every state in the codec's space; `generate` returns the images.

        Args:
            labels: classes by number or name, one per image; None: any.
            prompts: captions, one per image; None: none.
            steps: of the sampler; each evaluates the network once, and once more where guidance_scale is not 1.
            guidance_scale: 1 is none.
            sampler: a name in helpers.diffusion.SAMPLERS.
            seed: image i takes all its noise from seed + i, so that it does not depend on the size of the batch.
            guidance_interval: times between which guidance is used.

        Raises:
            ValueError: for bad arguments, before any work is done.
            FloatingPointError: at the first step whose state is NaN or infinite.
        """
        # 1. Check the arguments and tokenise the prompts
        check_sampler(sampler)
        steps = check_integer("steps", steps, 1, 100_000)
        guidance_scale = check_number("guidance_scale", guidance_scale, -1000, 1000)
        seed = check_integer("seed", seed, 0, MAX_SEED)
        first, last = (check_number("guidance_interval", time, 0, 1) for time in guidance_interval)
        label_ids, captions = self._encode_conditions(labels, prompts)
        # 2. Noise, on the CPU: the same images on every device
        device = next(self.parameters()).device
        factor = self.codec.downsampling_factor
        shape = (self.codec.channels, self.height // factor, self.width // factor)
        noise, generators = initial_noise(range(seed, seed + len(label_ids)), shape)
        # 3. The denoiser, with guidance
        if captions is not None:
            captions = captions.to(device)
        denoise = self.denoiser(label_ids.to(device), captions, guidance_scale, (first, last))
        # 4. The sampler; its later noise comes from the same generators, each of which goes on where its noise ended
        path = self.objective.path
        x = noise.to(device)
        return finite_steps(run_sampler(sampler, denoise, x, time_grid(steps), path, generator=generators))

    def generate(
        self,
        labels: Sequence[int | str] | None = None,
        prompts: Sequence[str] | None = None,
        *,
        batch_size: int = 100,
        progress: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> Tensor:
        """Generate images, float32 (B, 3, H, W) in [-1, 1], in batches; other arguments as for `sample_steps`.

        No image depends on `batch_size`. Raises as `sample_steps`.
        """
        from tqdm.auto import tqdm

        check_integer("batch_size", batch_size, 1, 1_000_000)
        seed = check_integer("seed", seed, 0, MAX_SEED)
        self.eval()
        count = len(self._encode_conditions(labels, prompts)[0])
        images = []
        for start in tqdm(range(0, count, batch_size), desc="generating", disable=not progress, leave=False):
            part = slice(start, start + batch_size)
            part_labels = None if labels is None else labels[part]
            part_prompts = None if prompts is None else prompts[part]
            *_, last = self.sample_steps(part_labels, part_prompts, seed=seed + start, **options)
            images.append(self.codec.decode(last.x).float().cpu())
        return torch.cat(images)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions as token ids, int64 (B, L); an empty caption is all padding, 0.

        Raises:
            ValueError: for words that the captions of the synthetic faces do not have, in a network trained on these.
        """
        length = self.unet.config.caption_length
        return tokenize(captions, length) if self.tokenizer is None else self.tokenizer(captions)

    def _encode_conditions(
        self, labels: Sequence[int | str] | None, prompts: Sequence[str] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Check labels and prompts; returns class numbers int64 (B,) and tokens int64 (B, L) or None."""
        if labels is None and prompts is None:
            raise ValueError("say what to generate: labels=['cat', ...], prompts=['a cat with ...', ...] or both")
        if prompts is not None and not self.unet.config.vocab_size:
            raise ValueError("this network was trained without captions: give labels only")
        if labels is not None and prompts is not None and len(labels) != len(prompts):
            raise ValueError(f"{len(labels)} labels but {len(prompts)} prompts")
        if isinstance(labels, str) or isinstance(prompts, str):
            raise ValueError("labels and prompts are lists with one entry per image, e.g. ['cat'] * 4")
        captions = None if prompts is None else self.tokenize(prompts)
        if labels is not None:
            return torch.tensor([self._label_id(label) for label in labels], dtype=torch.long), captions
        return torch.full((len(prompts or ()),), NO_CLASS), captions

    def _label_id(self, label: int | str) -> int:
        if label in self.class_names:
            return self.class_names.index(str(label))
        if isinstance(label, str) or not NO_CLASS <= int(label) < len(self.class_names):
            raise ValueError(
                f"unknown class {label!r}: choose one of {', '.join(self.class_names)}, "
                f"0..{len(self.class_names) - 1}, or {NO_CLASS} for any"
            )
        return int(label)


def vocabulary_size() -> int:
    """The vocabulary size of the synthetic faces' captions."""
    return len(VOCABULARY)
