"""A classifier of synthetic faces: which species, fur, eyes, pattern and background does an image show?

The course scores generators with it: generate faces for known prompts, classify them, count how often the two agree.
Its features also serve for the Frechet and the kernel distance. It is trained on faces that no dataset contains,
augmented the way generators distort them (blur, noise, mottled colour, a shift), so that it judges what is shown and
not how sharply.

    python -m helpers.scoring.attributes        # trains 00_assets/weights/scorer.safetensors
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

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
SIZE = 64  # pixels a side that the network takes
WIDTH = 128  # length of a feature vector
TRAIN_SEED = 9_000_000  # of the faces: far from the seeds of any dataset
HELD_OUT_SEED = 8_000_000
CHUNK = 256  # images classified at once

# Faces, or attribute -> one name for all images, a name for each, or class indices (B,)
Expected = Sequence[FaceAttributes] | Mapping[str, str | Sequence[str] | Tensor]


def _conv_block(channels: int, out_channels: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    convolution = nn.Conv2d(channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class AttributeClassifier(nn.Module):
    """A small convolutional network with one linear head per attribute; images are float (B, 3, H, H) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _conv_block(3, 24, kernel=5, stride=2),  # (B, 24, 32, 32)
            _conv_block(24, 48, stride=2),  # (B, 48, 16, 16): an eye is three pixels wide
            _conv_block(48, 48),  # (B, 48, 16, 16)
            _conv_block(48, 96, stride=2),  # (B, 96, 8, 8)
            _conv_block(96, WIDTH),  # (B, 128, 8, 8)
        )
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in ATTRIBUTES.items()})

    def embed(self, x: Tensor) -> Tensor:
        """Compute features with gradients: (B, 3, H, H), resized to 64 px -> (B, 128)."""
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3]:
            raise ValueError(f"the classifier takes square images (B, 3, H, H), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(
                f"the classifier takes floats in [-1, 1], got {x.dtype}: helpers.data.faces.to_float converts"
            )
        if x.shape[2] != SIZE:
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        return self.trunk(x.clamp(-1, 1)).mean((2, 3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute logits with gradients: (B, 3, H, H) -> attribute -> (B, number of its values)."""
        embedded = self.embed(x)
        return {name: head(embedded) for name, head in self.heads.items()}

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Compute the features that the Frechet and the kernel distance compare: (B, 3, H, H) -> float32 (B, 128), CPU.

        Raises:
            ValueError: for another shape, NaN, or values that look like 0..255.
            TypeError: for integers.
        """
        was_training = self.training
        self.eval()  # batch norm must not depend on which images are classified together
        try:
            device = next(self.parameters()).device
            chunks = [self.embed(_checked(chunk).to(device)).float().cpu() for chunk in images.split(CHUNK)]
        finally:
            self.train(was_training)
        return torch.cat(chunks)

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Classify images: attribute -> class indices, int64 (B,), into ATTRIBUTES[attribute].

        Raises:
            ValueError, TypeError: as `features`.
        """
        features = self.features(images).to(next(self.parameters()).device)
        return {name: head(features).argmax(1).cpu() for name, head in self.heads.items()}

    def predict_names(self, images: Tensor) -> dict[str, list[str]]:
        """Classify images, as `predict`, and return the names of the classes: attribute -> B names."""
        predictions = self.predict(images)
        return {name: [ATTRIBUTES[name][i] for i in indices.tolist()] for name, indices in predictions.items()}

    def agreement(self, images: Tensor, expected: Expected) -> dict[str, float]:
        """Compute the accuracy by attribute: the share of images that are classified as expected.

        Args:
            images: (B, 3, H, H) in [-1, 1].
            expected: the B faces that the images should show; or attribute -> one name for all, B names, or class
                indices (B,), and then only the attributes it mentions are compared.

        Raises:
            ValueError: for no images, a wrong number of expected faces, an unknown attribute or name.
        """
        targets = _class_indices(expected, len(images))
        predictions = self.predict(images)
        return {name: (predictions[name] == target).float().mean().item() for name, target in targets.items()}


def _checked(images: Tensor) -> Tensor:
    """The same images; raises ValueError for NaN and for values far outside [-1, 1]."""
    if images.isnan().any():
        raise ValueError("there is NaN in the images: the sampler or its training diverged")
    if images.numel() and images.abs().max() > 10:
        raise ValueError(f"images must lie in [-1, 1], got values up to {images.abs().max():.0f}: are they 0..255?")
    return images


def _class_indices(expected: Expected, count: int) -> dict[str, Tensor]:
    """attribute -> class indices, int64 (B,)"""
    if count == 0:
        raise ValueError("no images, no agreement")
    if not isinstance(expected, Mapping):
        expected = {name: [getattr(face, name) for face in expected] for name in ATTRIBUTES}
    targets = {}
    for name, values in expected.items():
        if name not in ATTRIBUTES:
            raise ValueError(f"the classifier has no attribute {name!r}; it has {', '.join(ATTRIBUTES)}")
        values = [values] * count if isinstance(values, str) else values
        if not isinstance(values, Tensor):
            unknown = [value for value in values if value not in ATTRIBUTES[name]]
            if unknown:
                raise ValueError(f"unknown {name} {unknown[0]!r}; there are: {', '.join(ATTRIBUTES[name])}")
            values = torch.tensor([ATTRIBUTES[name].index(value) for value in values])
        if values.shape != (count,):
            raise ValueError(f"{count} images, but {len(values)} expected values of {name}")
        targets[name] = values.cpu()
    return targets


def load_classifier(device: torch.device | str | None = None) -> AttributeClassifier:
    """Load the classifier that ships with the course, in eval mode. Raises as `helpers.weights.load_weights` does."""
    classifier = AttributeClassifier()
    load_weights(classifier, "scorer")
    return classifier.eval().to(device)


def render_faces(count: int, seed: int, progress: bool = False) -> tuple[Tensor, tuple[FaceAttributes, ...]]:
    """Render `count` new faces: uint8 (count, 3, 64, 64), and their attributes."""
    from tqdm.auto import tqdm

    attributes = toy_attributes(count, seed)
    bar = tqdm(attributes, desc="drawing", unit=" faces", disable=not progress)
    return torch.from_numpy(np.stack([draw_face(face, SIZE) for face in bar])), attributes


def held_out_accuracy(
    classifier: AttributeClassifier, count: int = 600, seed: int = 0, augmented: bool = False
) -> dict[str, float]:
    """Compute the accuracy by attribute on newly rendered faces that are in no training set.

    Args:
        classifier: what is evaluated.
        count: number of faces, the species in rotation.
        seed: other faces for every seed.
        augmented: distort the faces with `augment`, as in training.
    """
    images, attributes = render_faces(count, HELD_OUT_SEED + seed)
    x = to_float(images)
    if augmented:
        x = augment(x, torch.Generator().manual_seed(seed))
    return classifier.agreement(x, attributes)


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Distort images as generators do: shift, mottle, blur, add noise, brighten or fade. (B, 3, H, H) in [-1, 1]."""
    B, _, H, _ = x.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(B, *shape).uniform_(low, high, generator=generator)

    angle = uniform(-0.1, 0.1)
    scale = uniform(0.9, 1.12)
    side = uniform(0, 1).sub(0.5).sign()  # -1 mirrors
    affine = torch.stack(
        [
            torch.stack([scale * side * angle.cos(), -scale * angle.sin(), uniform(-0.09, 0.09)], 1),
            torch.stack([scale * side * angle.sin(), scale * angle.cos(), uniform(-0.09, 0.09)], 1),
        ],
        1,
    )
    x = F.grid_sample(x, F.affine_grid(affine, list(x.shape), False), padding_mode="border", align_corners=False)
    mottling = torch.randn(B, 3, 8, 8, generator=generator) * uniform(0, 0.08, 1, 1, 1)
    x = x + F.interpolate(mottling, (H, H), mode="bilinear", align_corners=False)
    blurred = F.interpolate(F.avg_pool2d(x, 2), (H, H), mode="bilinear", align_corners=False)
    x = x.lerp(blurred, uniform(-0.2, 1, 1, 1, 1).clamp(min=0))
    x = x * uniform(0.9, 1.08, 1, 1, 1) + uniform(-0.06, 0.06, 1, 1, 1) + uniform(-0.03, 0.03, 3, 1, 1)
    noise = torch.randn(x.shape, generator=generator) * uniform(-0.03, 0.1, 1, 1, 1).clamp(min=0)
    return (x + noise).clamp(-1, 1)


def train(
    classifier: AttributeClassifier,
    images: Tensor,
    attributes: Sequence[FaceAttributes],
    steps: int,
    seed: int,
    batch_size: int = 64,
    learning_rate: float = 4e-3,
) -> Iterator[float]:
    """Train the classifier on augmented faces; yields the loss of every step.

    Args:
        classifier: is trained in place.
        images: uint8 (N, 3, 64, 64).
        attributes: of these images.
        steps: updates.
        seed: of the batches and their augmentation.
        batch_size: images per update.
        learning_rate: the largest of the one-cycle schedule.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = _class_indices(attributes, len(images))
    optimizer = torch.optim.AdamW(classifier.parameters(), learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.15)
    classifier.train().to(memory_format=torch.channels_last)
    for _ in range(steps):
        rows = torch.randint(len(images), (batch_size,), generator=generator)  # (B,)
        x = augment(to_float(images[rows]), generator)  # (B, 3, 64, 64)
        logits = classifier(x.contiguous(memory_format=torch.channels_last))  # attribute -> (B, values)
        loss = torch.zeros(())
        for name in ATTRIBUTES:
            loss = loss + F.cross_entropy(logits[name], labels[name][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that trains the scorer."""
    from tqdm.auto import tqdm

    options = _parse(arguments)
    started = time.perf_counter()
    torch.manual_seed(options.seed)
    classifier = AttributeClassifier()
    images, attributes = render_faces(options.faces, TRAIN_SEED + options.seed, progress=True)
    bar = tqdm(train(classifier, images, attributes, options.steps, options.seed), total=options.steps, unit=" steps")
    for loss in bar:
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    seconds = time.perf_counter() - started
    classifier.half().float()  # evaluated as it is stored
    clean = held_out_accuracy(classifier, options.held_out, options.seed)
    augmented = held_out_accuracy(classifier, options.held_out, options.seed, augmented=True)
    print("held-out accuracy, clean: " + _as_text(clean))
    print("held-out accuracy, augmented: " + _as_text(augmented))
    command = (
        f"python -m helpers.scoring.attributes --steps {options.steps} --faces {options.faces} "
        f"--held-out {options.held_out} --seed {options.seed}"
    )
    metadata = {
        "command": command,
        "seed": str(options.seed),
        "seconds": f"{seconds:.0f}",
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "painter_version": PAINTER_VERSION,
        "held_out_faces": str(options.held_out),
        "held_out_accuracy": json.dumps(clean),
        "held_out_accuracy_flawed": json.dumps(augmented),
        "parameters": str(sum(p.numel() for p in classifier.parameters())),
    }
    save_weights(classifier, options.out, metadata)
    print(f"{options.out}: {seconds:.0f} s of drawing and training")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.scoring.attributes", description="Train the attribute classifier."
    )
    parser.add_argument("--steps", type=int, default=1_500, help="updates of 64 faces (default %(default)s)")
    parser.add_argument("--faces", type=int, default=12_000, help="training faces (default %(default)s)")
    parser.add_argument("--held-out", type=int, default=1_500, help="test faces (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(weights_path("scorer")), help="safetensors file (default %(default)s)")
    options = parser.parse_args(arguments)
    if min(options.steps, options.faces, options.held_out) < 1 or options.seed < 0:
        parser.error("--steps, --faces and --held-out must be at least 1, --seed at least 0")
    if Path(options.out).is_dir():
        parser.error(f"--out {options.out} is a folder: name the file that is to be written")
    return options


def _as_text(accuracy: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in accuracy.items())


if __name__ == "__main__":
    main()
