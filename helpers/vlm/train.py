"""Train the tiny PaliGemma on synthetic faces, or on examples of one's own: `python -m helpers.vlm.train --help`.

It learns captions, questions, boxes and masks together from the first step; the prompt says which task it is. Every
image is encoded once and used for several examples. Alphabet: B rows of a batch, P images, N tokens, Q labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from helpers.data import load_faces
from helpers.data.faces import DrawnFaces
from helpers.data.questions import sample_face_grid
from helpers.training.arguments import naming_option, positive_int, training_parser
from helpers.training.processes import process_share
from helpers.training.run import Task, train_command
from helpers.vlm.auxiliary_labels import WithAuxiliaryHeads, face_labels, grid_labels
from helpers.vlm.boxes import Box
from helpers.vlm.evaluate import boxes_by_name, evaluate
from helpers.vlm.examples import Example, all_texts, encode_face_masks, sample_examples, sample_grid_examples
from helpers.vlm.mask_codes import MaskAutoencoder
from helpers.vlm.paligemma import Batch, PaliGemmaConfig, PaliGemmaModel
from helpers.vlm.pipeline import TASKS, PaliGemma, save_model
from helpers.vlm.processor import Processor, Tokenizer
from helpers.vlm.train_own import own_task
from helpers.weights import read_metadata

if TYPE_CHECKING:
    from accelerate import Accelerator

GRID_EVERY = 3  # one image in three shows several faces: counting is the hardest task to learn
EXAMPLES_PER_IMAGE = 4


class TrainingData(NamedTuple):
    """The examples of one update."""

    images: Tensor  # (P, 3, H, W) in [-1, 1]
    examples: list[Example]  # EXAMPLES_PER_IMAGE about the first image, then about the second, ...
    labels: Tensor  # int64 (P, Q), of `helpers.vlm.auxiliary_labels`


def sample_training_data(faces: DrawnFaces, codes: Tensor, count: int, rng: np.random.Generator) -> TrainingData:
    """Sample `count` images and examples about them; `codes` are the mask codes of all faces, (N, 16)."""
    images = []
    examples = []
    labels = []
    for i in range(count):
        if i % GRID_EVERY == 0:
            grid = sample_face_grid(len(faces), rng)
            images.append(grid.render(faces))
            examples += sample_grid_examples(grid, faces, rng, EXAMPLES_PER_IMAGE)
            labels.append(grid_labels(grid, faces))
        else:
            index = int(rng.integers(len(faces)))
            face = faces.attributes[index]
            images.append(faces.images[index])
            examples += sample_examples(face, codes[index].tolist(), rng, EXAMPLES_PER_IMAGE)
            labels.append(face_labels(face))
    return TrainingData(torch.from_numpy(np.stack(images)) / 127.5 - 1, examples, torch.tensor(labels))


def task(options: argparse.Namespace, accelerator: Accelerator) -> Task:
    """Load the data and build model, loss and sampling as the options say."""
    if options.source != "toy-faces":
        return own_task(options, accelerator)
    with naming_option("--masks"):
        masks = MaskAutoencoder.from_weights(options.masks).to(accelerator.device)
    with naming_option("--start"):
        start = PaliGemma.from_weights(options.start, masks=None) if options.start else None
    faces = load_faces("toy-faces", "train", 64, limit=options.faces, progress=accelerator.is_main_process)
    held_out = load_faces("toy-faces", "val", 64, limit=40, progress=False)
    codes = encode_face_masks(faces.attributes, masks, progress=accelerator.is_main_process)
    tokenizer = start.tokenizer if start else Tokenizer.from_texts(all_texts(faces.attributes))
    config = start.model.config if start else PaliGemmaConfig.tiny(len(tokenizer), tokenizer.image_token_id)
    processor = Processor(tokenizer, config.vision.size, config.vision.tokens)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = WithAuxiliaryHeads(start.model if start else PaliGemmaModel(config))

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        data = sample_training_data(faces, codes, options.batch_size, rng)
        text = processor.tokenize(
            [example.prompt for example in data.examples], [example.answer for example in data.examples]
        )
        by_image = [part.unflatten(0, (-1, EXAMPLES_PER_IMAGE)) for part in text]  # (P, EXAMPLES_PER_IMAGE, N) each
        rows = [process_share(accelerator, part).flatten(0, 1) for part in by_image]
        batch = Batch(process_share(accelerator, data.images), *rows)
        labels = process_share(accelerator, data.labels)
        return model(batch.to(accelerator.device), labels.to(accelerator.device)), None

    def save(average: WithAuxiliaryHeads, path: Path, metadata: dict[str, str]) -> None:
        save_model(average.model, tokenizer, path, metadata, masks=read_metadata(options.masks)["sha256"])

    def sample(average: WithAuxiliaryHeads, path: Path) -> None:
        assistant = PaliGemma(average.model, tokenizer, masks, TASKS)
        scores = ", ".join(f"{category} {score:.0%}" for category, score in evaluate(assistant, held_out).items())
        print(f"{len(held_out)} held-out faces: {scores}", flush=True)
        save_detections(assistant, list(held_out.tensor(slice(0, 8), accelerator.device)), path)

    return Task("paligemma-toy-faces", model, losses, save, sample, asdict(config))


def save_detections(assistant: PaliGemma, images: Sequence[Tensor], path: Path) -> None:
    """Write the images to a PNG file, with the boxes of eyes and nose that the assistant detects."""
    from helpers.show.figures import grid, save_png

    predictions = assistant.generate(images, ["detect left eye ; right eye ; nose"] * len(images))
    with_boxes = [
        draw_boxes(image, boxes_by_name(text).values()) for image, text in zip(images, predictions, strict=True)
    ]
    save_png(grid(torch.stack(with_boxes), columns=8), path)


def draw_boxes(image: Tensor, boxes: Iterable[Box]) -> Tensor:
    """Draw white lines along the sides of boxes into a copy of an image (3, H, W)."""
    image = image.clone()
    height, width = image.shape[1:]
    for box in boxes:
        left, right = (min(width - 1, round(x * width)) for x in (box.x0, box.x1))
        top, bottom = (min(height - 1, round(y * height)) for y in (box.y0, box.y1))
        image[:, [top, bottom], left : right + 1] = 1
        image[:, top : bottom + 1, [left, right]] = 1
    return image


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    return training_parser("helpers.vlm.train", __doc__, _add_arguments, steps=8000, batch_size=16, learning_rate=1e-3)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--source",
        default="toy-faces",
        help="toy-faces, or a JSONL file of images, prefixes and suffixes",
    )
    add("--faces", type=positive_int, default=12_000, help="synthetic faces to train on")
    add("--start", help="weights to fine-tune, a name or a file; None: train from scratch")
    add("--masks", default="masks", help="weights of the mask autoencoder: a name or a file")


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
