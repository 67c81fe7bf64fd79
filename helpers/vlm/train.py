"""Train the tiny PaliGemma on drawn faces: `python -m helpers.vlm.train --help`.

Captions, questions, boxes and masks, all at once and from the first step: what tells the tasks apart is the prompt.
Every picture is looked at once and asked several things. Alphabet: B rows of a batch, P pictures, N tokens.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from helpers.data import Faces, load_faces
from helpers.data.questions import sample_face_grid
from helpers.training.arguments import add_run_arguments
from helpers.training.run import Task, train_command
from helpers.vlm.auxiliary_labels import WithAuxiliaryHeads, labels_of_face, labels_of_several
from helpers.vlm.boxes import Box
from helpers.vlm.evaluate import boxes_in, evaluate
from helpers.vlm.examples import Example, all_texts, mask_codes, some_counting, some_lessons
from helpers.vlm.mask_codes import MaskAutoencoder
from helpers.vlm.paligemma import Batch, PaliGemmaConfig, PaliGemmaModel
from helpers.vlm.pipeline import TASKS, PaliGemma, save_model
from helpers.vlm.processor import Processor, Tokenizer
from helpers.weights import read_metadata

COUNTED = 3  # one picture in so many holds several faces: counting is the hardest to learn
EACH = 4  # things that are asked about a picture


class Examples(NamedTuple):
    """What one update learns from."""

    pictures: Tensor  # (count, 3, H, W) in [-1, 1]
    told: list[Example]  # EACH about the first picture, EACH about the second, ...
    labels: Tensor  # int64 (count, Q), of `helpers.vlm.auxiliary_labels`


def drawn_lessons(faces: Faces, codes: Tensor, count: int, rng: np.random.Generator) -> Examples:
    """Random pictures with lessons about them."""
    pictures = []
    told = []
    labels = []
    for i in range(count):
        if i % COUNTED == 0:
            group = sample_face_grid(len(faces), rng)
            pictures.append(group.picture(faces))
            told += some_counting(group, faces, rng, EACH)
            labels.append(labels_of_several(group, faces))
        else:
            chosen = int(rng.integers(len(faces)))
            face = faces.attributes[chosen]
            pictures.append(faces.images[chosen])
            told += some_lessons(face, codes[chosen].tolist(), rng, EACH)
            labels.append(labels_of_face(face))
    return Examples(torch.from_numpy(np.stack(pictures)) / 127.5 - 1, told, torch.tensor(labels))


def task(options: argparse.Namespace, accelerator: Any) -> Task:
    """What these options train."""
    faces = load_faces("toy-faces", "train", 64, limit=options.faces, progress=accelerator.is_main_process)
    held_out = load_faces("toy-faces", "val", 64, limit=40, progress=False)
    masks = MaskAutoencoder.from_weights(options.masks).to(accelerator.device)
    codes = mask_codes(faces.attributes, masks, progress=accelerator.is_main_process)
    start = PaliGemma.from_weights(options.start, masks=None) if options.start else None
    tokenizer = start.tokenizer if start else Tokenizer.of_words(all_texts(faces.attributes))
    config = start.model.config if start else PaliGemmaConfig.tiny(len(tokenizer), tokenizer.image)
    processor = Processor(tokenizer, config.vision.size, config.vision.tokens)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = WithAuxiliaryHeads(start.model if start else PaliGemmaModel(config))

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        pictures, told, labels = drawn_lessons(faces, codes, options.batch_size, rng)
        texts = processor.texts([one.prompt for one in told], [one.answer for one in told])
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        rows = [text.unflatten(0, (-1, EACH))[mine].flatten(0, 1) for text in texts]
        return model(Batch(pictures[mine], *rows).to(accelerator.device), labels[mine].to(accelerator.device)), None

    def save(average: WithAuxiliaryHeads, path: Path, told: dict[str, str]) -> None:
        save_model(average.model, tokenizer, path, told, masks=read_metadata(options.masks)["sha256"])

    def sample(average: WithAuxiliaryHeads, path: Path) -> None:
        from helpers.show.figures import grid, save_png

        assistant = PaliGemma(average.model, tokenizer, masks, TASKS)
        told = ", ".join(f"{kind} {share:.0%}" for kind, share in evaluate(assistant, held_out).items())
        print(f"{len(held_out)} held-out faces: {told}", flush=True)
        some = list(held_out.tensor(slice(0, 8), accelerator.device))
        answers = assistant.write(some, ["detect left eye ; right eye ; nose"] * len(some))
        drawn = [framed(one, boxes_in(answer).values()) for one, answer in zip(some, answers, strict=True)]
        save_png(grid(torch.stack(drawn), columns=8), path)

    return Task("paligemma-toy-faces", model, losses, save, sample, asdict(config))


def framed(picture: Tensor, boxes: Iterable[Box]) -> Tensor:
    """A picture (3, H, W) with white lines along the boxes' sides."""
    picture, (height, width) = picture.clone(), picture.shape[1:]
    for box in boxes:
        left, right = (min(width - 1, round(x * width)) for x in (box.x0, box.x1))
        top, bottom = (min(height - 1, round(y * height)) for y in (box.y0, box.y1))
        picture[:, [top, bottom], left : right + 1] = 1
        picture[:, top : bottom + 1, [left, right]] = 1
    return picture


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(
        prog="python -m helpers.vlm.train", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--faces", type=int, default=12_000, help="drawn to learn from")
    made.add_argument("--start", help="fine-tune these weights, a name or a file; default: start from nothing")
    made.add_argument("--masks", default="masks", help="weights of the mask autoencoder: a name or a file")
    add_run_arguments(made, steps=8000, batch_size=16, learning_rate=1e-3)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
