"""Tiny Stable Diffusion as one object: a network, what it diffuses, and what it is asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.data.captions import WORDS, encode
from helpers.diffusion import SAMPLERS, Denoised, Objective, Step, convert_prediction, guided_denoiser, time_grid
from helpers.tiny_sd.codecs import Codec, PixelCodec, load_codec
from helpers.tiny_sd.perceptual import PerceptualLoss
from helpers.tiny_sd.unet import NO_CLASS, TinyUNet, UNetConfig
from helpers.weights import load_weights, read_config, save_with_config


class TinySD(nn.Module):
    """Generates pictures of a class, of a caption, or of both."""

    def __init__(self, config: UNetConfig, objective: str, class_names: Sequence[str], size: int, codec: Codec):
        """
        Args:
            config: sizes of the network; `config.words` 0 makes one without captions.
            objective: "flow" or "epsilon" (see Objective.named).
            class_names: in the order of the labels.
            size: of the pictures it is trained on, pixels.
            codec: what is diffused.

        Raises:
            ValueError: for a network that takes other channels than the codec gives.
        """
        super().__init__()
        if config.channels != codec.channels:
            raise ValueError(
                f"the codec {codec.name!r} gives {codec.channels} channels, the network takes "
                f"{config.channels}: UNetConfig(channels={codec.channels})"
            )
        self.unet = TinyUNet(config)
        self.codec = codec
        self.size = size
        self.objective_name = objective
        self.objective = Objective.named(objective)
        self.class_names = tuple(class_names)
        self.perceptual: PerceptualLoss | None = None  # a training may set it

    def describe(self) -> dict[str, Any]:
        """What `from_description` needs to build it again, as plain JSON values."""
        config = asdict(self.unet.config)
        if not config["augmentation"]:  # a field that older checkpoints do not have
            del config["augmentation"]
        return {
            "config": config,
            "objective": self.objective_name,
            "size": self.size,
            "class_names": list(self.class_names),
            "codec": self.codec.describe(),
        }

    @classmethod
    def from_description(cls, description: dict[str, Any], autoencoder: str | Path | None = None) -> "TinySD":
        """An untrained TinySD of the described sizes. Raises what `load_codec` raises."""
        config = UNetConfig(**description["config"])
        rest = ("objective", "class_names", "size")
        codec = load_codec(description["codec"], autoencoder)
        return cls(config, *(description[name] for name in rest), codec)

    @classmethod
    def from_weights(
        cls, name_or_path: str | Path, device: str | torch.device = "cpu", autoencoder: str | Path | None = None
    ) -> "TinySD":
        """Weights that `python -m helpers.tiny_sd.train` wrote, ready to generate.

        Args:
            name_or_path: of the network's weights.
            device: to compute on.
            autoencoder: where the one it was trained with is now, if it was moved.

        Raises:
            FileNotFoundError, ValueError: as `helpers.weights.load_weights` and `load_codec` do.
        """
        beside = Path(name_or_path).parent / "autoencoder" / "weights.safetensors"  # where method 3 leaves its own
        model = cls.from_description(read_config(name_or_path), autoencoder or (beside if beside.is_file() else None))
        load_weights(model.unet, name_or_path)
        return model.to(device).eval()

    def _apply(self, fn: Callable, recurse: bool = True) -> "TinySD":
        """What to(), cuda() and cpu() call: codec and perceptual loss, no parts of the network, go with it."""
        super()._apply(fn, recurse)
        device = next(self.parameters()).device
        self.codec.to(device)
        if self.perceptual is not None:
            self.perceptual.to(device)
        return self

    def save(self, path: str | Path, metadata: dict[str, str]) -> None:
        """Write the network's weights (fp16) with all that is needed to build it again."""
        save_with_config(self.unet, self.describe(), path, metadata)

    def losses(
        self,
        codes: Tensor,
        eps: Tensor,
        t: Tensor,
        labels: Tensor,
        captions: Tensor | None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """(B,) training losses.

        Args:
            codes, eps: (B, C, H, W) what is diffused, and noise.
            t: (B,) times.
            labels: int64 (B,), NO_CLASS where dropped; captions: int64 (B, L), zeros where dropped, or None.
            augmentation: (B, P) parameters of the augmentation that the images went through, or None.
        """
        x = self.objective.path.add_noise(codes, eps, t)
        answer = self.unet(x, t, labels, captions, augmentation).float()
        values = self.objective.losses(answer, codes, eps, t)
        if self.perceptual is None:
            return values
        x0 = convert_prediction(self.objective.prediction, answer, x, *self.objective.path.alpha_sigma(t)).x0
        return values + self.perceptual(x0, codes, t)

    def forward(self, *args: Tensor) -> Tensor:
        """`losses`: what several processes wrap and call."""
        return self.losses(*args)

    def denoiser(
        self, labels: Tensor, captions: Tensor | None, scale: float, guidance_interval: tuple[float, float] = (0.0, 1.0)
    ) -> Callable[[Tensor, float], Denoised]:
        """What a sampler asks: the network, guided away from "any picture" where scale is not 1.

        In pixels the predicted picture is clipped to [-1, 1] (as in DDPM's code): guidance then cannot over-expose it.
        """

        def ask(some_labels: Tensor, some_captions: Tensor | None) -> Callable[[Tensor, float], Denoised]:
            def denoise(x: Tensor, t: float) -> Denoised:
                times = torch.full((len(x),), t, device=x.device)
                answer = self.unet(x, times, some_labels, some_captions).float()
                return convert_prediction(self.objective.prediction, answer, x, *self.objective.path.alpha_sigma(times))

            return denoise

        nobody = torch.full_like(labels, NO_CLASS)
        nothing = None if captions is None else torch.zeros_like(captions)
        mixed = guided_denoiser(ask(labels, captions), ask(nobody, nothing), scale, guidance_interval)
        return self._clipped(mixed) if isinstance(self.codec, PixelCodec) else mixed

    def _clipped(self, denoise: Callable[[Tensor, float], Denoised]) -> Callable[[Tensor, float], Denoised]:
        def clipped(x: Tensor, t: float) -> Denoised:
            x0 = denoise(x, t).x0.clamp(-1, 1)
            return convert_prediction(
                "x0", x0, x, *self.objective.path.alpha_sigma(torch.full((len(x),), t, device=x.device))
            )

        return clipped

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
        """Generate, yielding every state in the codec's space; `generate` returns the pictures.

        Args:
            labels: classes by number or name, one per picture; None: any.
            prompts: captions, one per picture; None: none.
            steps: of the sampler; each asks the network once, and once more where guidance_scale is not 1.
            guidance_scale: 1 is none.
            sampler: a name in helpers.diffusion.SAMPLERS.
            seed: picture i is made from noise of seed + i, so that it does not depend on how many are made.
            interval: times between which guidance is used.

        Raises:
            ValueError: for bad arguments, before any work is done.
        """
        label_ids, captions = self._conditions(labels, prompts)
        if sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
        device = next(self.parameters()).device
        path = self.objective.path
        shape = (
            self.codec.channels,
            self.size // self.codec.downsampling_factor,
            self.size // self.codec.downsampling_factor,
        )
        # on the CPU: the same pictures on every device
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(label_ids))]
        noise = torch.stack([torch.randn(shape, generator=one) for one in generators]).to(device)
        denoise = self.denoiser(
            label_ids.to(device), None if captions is None else captions.to(device), guidance_scale, guidance_interval
        )
        # what a sampler draws later comes from the first generator, which goes on where the noise ended
        return _without_gradients(SAMPLERS[sampler](denoise, noise, time_grid(steps), path, generator=generators[0]))

    def generate(
        self, labels=None, prompts=None, *, batch_size: int = 100, progress: bool = False, **options: Any
    ) -> Tensor:
        """Pictures, float32 (B, 3, H, W) in [-1, 1]; arguments as for `sample_steps`, in batches of `batch_size`."""
        from tqdm.auto import tqdm

        self.eval()
        count = len(self._conditions(labels, prompts)[0])
        seed = options.pop("seed", 0)
        pictures = []
        for start in tqdm(range(0, count, batch_size), desc="generating", disable=not progress, leave=False):
            part = slice(start, start + batch_size)
            some = (None if labels is None else labels[part], None if prompts is None else prompts[part])
            *_, last = self.sample_steps(*some, seed=seed + start, **options)
            pictures.append(self.codec.decode(last.x).float().cpu())
        return torch.cat(pictures)

    def _conditions(self, labels, prompts) -> tuple[Tensor, Tensor | None]:
        if labels is None and prompts is None:
            raise ValueError("say what to generate: labels=['cat', ...], prompts=['a cat with ...', ...] or both")
        if prompts is not None and not self.unet.config.words:
            raise ValueError("this network was trained without captions (real pictures have none): give labels only")
        if labels is not None and prompts is not None and len(labels) != len(prompts):
            raise ValueError(f"{len(labels)} labels but {len(prompts)} prompts")
        if isinstance(labels, str) or isinstance(prompts, str):
            raise ValueError("labels and prompts are lists with one entry per picture, e.g. ['cat'] * 4")
        count = len(labels if labels is not None else prompts)
        label_ids = torch.full((count,), NO_CLASS)
        if labels is not None:
            label_ids = torch.tensor([self._label(label) for label in labels], dtype=torch.long)
        return label_ids, None if prompts is None else encode(prompts, self.unet.config.caption_length)

    def _label(self, label: int | str) -> int:
        if label in self.class_names:
            return self.class_names.index(label)
        if isinstance(label, str) or not NO_CLASS <= int(label) < len(self.class_names):
            raise ValueError(
                f"unknown class {label!r}: choose one of {', '.join(self.class_names)}, "
                f"0..{len(self.class_names) - 1}, or {NO_CLASS} for any"
            )
        return int(label)


def _without_gradients(steps: Iterator[Step]) -> Iterator[Step]:
    """A generator's body runs under the caller's gradient mode: turn gradients off around each step instead."""
    while True:
        with torch.no_grad():
            step = next(steps, None)
        if step is None:
            return
        yield step


def vocabulary_size() -> int:
    """How many words a captioned network of the drawn faces knows."""
    return len(WORDS)
