"""A reader of drawn faces: what species, fur, eyes, pattern and background does a picture show?

With it the course scores generators: ask for a face, read the picture, count how often the two agree. Its features also
serve for the Frechet and the kernel distance. It learns on faces that no data set contains, made worse the way
generators make them worse (blur, noise, mottled colour, a shift), so that it judges the face and not the brush.

    python -m helpers.scoring.attributes        # trains 00_assets/weights/scorer.safetensors
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.data.faces import to_float
from helpers.data.toy_faces import (
    BACKGROUNDS,
    EYES,
    FURS,
    PAINTER_VERSION,
    PATTERNS,
    SPECIES,
    FaceAttributes,
    draw_face,
    toy_attributes,
)
from helpers.weights import load_weights, save_weights, weights_path

ATTRIBUTES = {
    "species": SPECIES,
    "fur": tuple(FURS),
    "eyes": tuple(EYES),
    "pattern": PATTERNS,
    "background": tuple(BACKGROUNDS),
}
SIZE = 64  # pixels per side that the network sees
WIDTH = 128  # length of a feature vector
TRAIN_SEED = 9_000_000  # of the painter: far from the seeds of any data set
HELD_OUT_SEED = 8_000_000
CHUNK = 256  # pictures read at once

Wanted = Sequence[FaceAttributes] | Mapping[str, str | Sequence[str] | Tensor]


def _convolution(channels: int, out_channels: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class AttributeClassifier(nn.Module):
    """A small convolutional network with one head for each attribute; pictures are float (B, 3, H, H) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _convolution(3, 24, kernel=5, stride=2),  # (B, 24, 32, 32)
            _convolution(24, 48, stride=2),  # (B, 48, 16, 16): an eye is three pixels wide
            _convolution(48, 48),  # (B, 48, 16, 16)
            _convolution(48, 96, stride=2),  # (B, 96, 8, 8)
            _convolution(96, WIDTH),  # (B, 128, 8, 8)
        )
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in ATTRIBUTES.items()})

    def embed(self, x: Tensor) -> Tensor:
        """(B, 3, H, H), resized to 64 -> (B, 128), with gradients."""
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3]:
            raise ValueError(f"the reader takes square pictures (B, 3, H, H), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"the reader takes floats in [-1, 1], got {x.dtype}: helpers.data.faces.to_float converts")
        if x.shape[2] != SIZE:
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        return self.trunk(x.clamp(-1, 1)).mean((2, 3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, H) -> attribute -> logits (B, values of the attribute), with gradients."""
        embedded = self.embed(x)
        return {name: head(embedded) for name, head in self.heads.items()}

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, H) -> float32 (B, 128) on the CPU: what the Frechet and the kernel distance compare.

        Raises:
            ValueError: for another shape, NaN, or values that look like 0..255.
            TypeError: for integers.
        """
        was_training = self.training
        self.eval()  # batch norm must not depend on which pictures are read together
        try:
            device = next(self.parameters()).device
            chunks = [self.embed(_checked(chunk).to(device)).float().cpu() for chunk in images.split(CHUNK)]
        finally:
            self.train(was_training)
        return torch.cat(chunks)

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """attribute -> int64 (B,), positions in ATTRIBUTES[attribute]. Raises what `features` raises."""
        features = self.features(images).to(next(self.parameters()).device)
        return {name: head(features).argmax(1).cpu() for name, head in self.heads.items()}

    def predict_names(self, images: Tensor) -> dict[str, list[str]]:
        """What `predict` reads, in words: attribute -> B names."""
        return {name: [ATTRIBUTES[name][i] for i in found.tolist()] for name, found in self.predict(images).items()}

    def agreement(self, images: Tensor, wanted: Wanted) -> dict[str, float]:
        """The share of pictures that show what was asked for, by attribute.

        Args:
            images: (B, 3, H, H) in [-1, 1].
            wanted: the B faces asked for; or attribute -> one name for all, B names, or indices (B,), and then only the
                attributes it mentions are judged.

        Raises:
            ValueError: for no picture at all, a wrong number of wanted faces, an unknown attribute or name.
        """
        asked = _indices(wanted, len(images))
        found = self.predict(images)
        return {name: (found[name] == indices).float().mean().item() for name, indices in asked.items()}


def _checked(images: Tensor) -> Tensor:
    if images.isnan().any():
        raise ValueError("there is NaN in the pictures: the sampler or its training diverged")
    if images.numel() and images.abs().max() > 10:
        raise ValueError(f"pictures must lie in [-1, 1], got values up to {images.abs().max():.0f}: are they 0..255?")
    return images


def _indices(wanted: Wanted, count: int) -> dict[str, Tensor]:
    """attribute -> int64 (B,)"""
    if count == 0:
        raise ValueError("no picture, no agreement")
    if not isinstance(wanted, Mapping):
        wanted = {name: [getattr(one, name) for one in wanted] for name in ATTRIBUTES}
    asked = {}
    for name, values in wanted.items():
        if name not in ATTRIBUTES:
            raise ValueError(f"the reader knows no attribute {name!r}; it reads {', '.join(ATTRIBUTES)}")
        values = [values] * count if isinstance(values, str) else values
        if not isinstance(values, Tensor):
            unknown = [value for value in values if value not in ATTRIBUTES[name]]
            if unknown:
                raise ValueError(f"unknown {name} {unknown[0]!r}; there are: {', '.join(ATTRIBUTES[name])}")
            values = torch.tensor([ATTRIBUTES[name].index(value) for value in values])
        if values.shape != (count,):
            raise ValueError(f"{count} pictures, but {len(values)} wanted {name}")
        asked[name] = values.cpu()
    return asked


def load_classifier(device: torch.device | str | None = None) -> AttributeClassifier:
    """The reader that ships with the course, ready to read. Raises what `helpers.weights.load_weights` raises."""
    reader = AttributeClassifier()
    load_weights(reader, "scorer")
    return reader.eval().to(device)


def drawn(count: int, seed: int, progress: bool = False) -> tuple[Tensor, tuple[FaceAttributes, ...]]:
    """`count` freshly drawn faces: uint8 (count, 3, 64, 64) and what they show."""
    from tqdm.auto import tqdm

    attributes = toy_attributes(count, seed)
    bar = tqdm(attributes, desc="drawing", unit=" faces", disable=not progress)
    return torch.from_numpy(np.stack([draw_face(one, SIZE) for one in bar])), attributes


def held_out_accuracy(
    reader: AttributeClassifier, count: int = 600, seed: int = 0, flawed: bool = False
) -> dict[str, float]:
    """How often the reader is right, by attribute, on faces drawn now that it was not trained on.

    Args:
        count: number of faces, the species in rotation.
        seed: other faces for every seed.
        flawed: read them after `augment`, as in training.
    """
    images, attributes = drawn(count, HELD_OUT_SEED + seed)
    pictures = to_float(images)
    if flawed:
        pictures = augment(pictures, torch.Generator().manual_seed(seed))
    return reader.agreement(pictures, attributes)


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """What generators do to faces: moved, mottled, blurred, noisy, too bright or pale. (B, 3, H, H) in [-1, 1]."""
    B, _, H, _ = x.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(B, *shape).uniform_(low, high, generator=generator)

    turn = uniform(-0.1, 0.1)
    scale = uniform(0.9, 1.12)
    side = uniform(0, 1).sub(0.5).sign()  # -1 mirrors
    move = torch.stack(
        [
            torch.stack([scale * side * turn.cos(), -scale * turn.sin(), uniform(-0.09, 0.09)], 1),
            torch.stack([scale * side * turn.sin(), scale * turn.cos(), uniform(-0.09, 0.09)], 1),
        ],
        1,
    )
    x = F.grid_sample(x, F.affine_grid(move, list(x.shape), False), padding_mode="border", align_corners=False)
    mottled = torch.randn(B, 3, 8, 8, generator=generator) * uniform(0, 0.08, 1, 1, 1)
    x = x + F.interpolate(mottled, (H, H), mode="bilinear", align_corners=False)
    soft = F.interpolate(F.avg_pool2d(x, 2), (H, H), mode="bilinear", align_corners=False)
    x = x.lerp(soft, uniform(-0.2, 1, 1, 1, 1).clamp(min=0))
    x = x * uniform(0.9, 1.08, 1, 1, 1) + uniform(-0.06, 0.06, 1, 1, 1) + uniform(-0.03, 0.03, 3, 1, 1)
    noise = torch.randn(x.shape, generator=generator) * uniform(-0.03, 0.1, 1, 1, 1).clamp(min=0)
    return (x + noise).clamp(-1, 1)


def train(
    reader: AttributeClassifier,
    images: Tensor,
    attributes: Sequence[FaceAttributes],
    steps: int,
    seed: int,
    batch: int = 64,
    rate: float = 4e-3,
) -> Iterator[float]:
    """Teach the reader on flawed faces; yields the loss of every step.

    Args:
        images: uint8 (N, 3, 64, 64).
        attributes: of these pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = _indices(attributes, len(images))
    optimizer = torch.optim.AdamW(reader.parameters(), rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    reader.train().to(memory_format=torch.channels_last)
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=generator)  # (B,)
        x = augment(to_float(images[chosen]), generator)  # (B, 3, 64, 64)
        logits = reader(x.contiguous(memory_format=torch.channels_last))  # attribute -> (B, values)
        loss = sum(F.cross_entropy(logits[name], labels[name][chosen]) for name in ATTRIBUTES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command that trains the scorer."""
    from tqdm.auto import tqdm

    parser = argparse.ArgumentParser(prog="python -m helpers.scoring.attributes", description="Train the face reader.")
    parser.add_argument("--steps", type=int, default=1_500, help="of 64 faces (default %(default)s)")
    parser.add_argument("--faces", type=int, default=12_000, help="drawn to learn from (default %(default)s)")
    parser.add_argument("--held-out", type=int, default=1_500, help="drawn to test on (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(weights_path("scorer")), help="safetensors file (default %(default)s)")
    options = parser.parse_args(arguments)
    if min(options.steps, options.faces, options.held_out) < 1 or options.seed < 0:
        parser.error("--steps, --faces and --held-out must be at least 1, --seed at least 0")
    started = time.perf_counter()
    torch.manual_seed(options.seed)
    reader = AttributeClassifier()
    images, attributes = drawn(options.faces, TRAIN_SEED + options.seed, progress=True)
    bar = tqdm(train(reader, images, attributes, options.steps, options.seed), total=options.steps, unit=" steps")
    for loss in bar:
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    seconds = time.perf_counter() - started
    reader.half().float()  # scored as it is stored
    scores = {
        kind: held_out_accuracy(reader, options.held_out, options.seed, flawed=kind == "flawed")
        for kind in ("clean", "flawed")
    }
    for kind, accuracy in scores.items():
        print(f"held-out accuracy, {kind}: " + ", ".join(f"{name} {value:.4f}" for name, value in accuracy.items()))
    command = (
        f"python -m helpers.scoring.attributes --steps {options.steps} --faces {options.faces} "
        f"--held-out {options.held_out} --seed {options.seed}"
    )
    save_weights(
        reader,
        options.out,
        {
            "command": command,
            "seed": str(options.seed),
            "seconds": f"{seconds:.0f}",
            "torch": torch.__version__,
            "threads": str(torch.get_num_threads()),
            "painter_version": PAINTER_VERSION,
            "held_out_faces": str(options.held_out),
            "held_out_accuracy": json.dumps(scores["clean"]),
            "held_out_accuracy_flawed": json.dumps(scores["flawed"]),
            "parameters": str(sum(p.numel() for p in reader.parameters())),
        },
    )
    print(f"{options.out}: {seconds:.0f} s of drawing and training")


if __name__ == "__main__":
    main()
