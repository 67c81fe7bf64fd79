"""Train the tiny CLIP on drawn faces and their captions: `python -m helpers.text.train --help`.

Its tokenizer is learned first, from the same captions. Stable Diffusion's tiny edition takes the text tower.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from helpers.data import load_faces
from helpers.data.captions import caption_variants
from helpers.text.bpe import BytePairTokenizer, Pair, merge_pair, split_words, to_symbols
from helpers.text.clip import CLIPTowerConfig
from helpers.text.contrastive import CLIP
from helpers.training.arguments import add_run_arguments
from helpers.training.run import Task, train_command

WORDINGS = 4  # captions per face: the full one, and three that leave details out
LENGTH = 24  # tokens: the longest caption has 15, start and end come on top


def tiny_clip(tokenizer: BytePairTokenizer) -> CLIP:
    """An untrained CLIP for drawn faces of 64x64 pixels."""
    sizes = {"width": 128, "layers": 4, "heads": 4, "mlp": 512, "projection": 64}
    text = CLIPTowerConfig(**sizes, vocabulary=len(tokenizer), length=LENGTH)
    return CLIP(text, CLIPTowerConfig(**sizes, size=64, patch=8), tokenizer.end)


def learn_merges(texts: Sequence[str], count: int) -> Iterator[Pair]:
    """Byte-pair encoding's training: yields the most frequent pair, glues it everywhere, and counts anew.

    Pairs that occur once are not worth a token; equally frequent ones are taken in alphabetical order.
    """
    words = Counter(word for text in texts for word in split_words(text))
    spelled = {word: to_symbols(word) for word in words}
    for _ in range(count):
        pairs: Counter[Pair] = Counter()
        for word, pieces in spelled.items():
            for pair in zip(pieces, pieces[1:], strict=False):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            return
        spelled = {word: merge_pair(pieces, best) for word, pieces in spelled.items()}
        yield best


def learned_tokenizer(texts: Sequence[str]) -> BytePairTokenizer:
    """Merges until every word of the captions is one token."""
    return BytePairTokenizer(list(learn_merges(texts, 1000)), LENGTH)


def task(options: argparse.Namespace, accelerator: Any) -> Task:
    """What these options train."""
    faces = load_faces("toy-faces", "train", 64, limit=options.faces, progress=accelerator.is_main_process)
    texts = caption_variants(faces.attributes, WORDINGS)
    tokenizer = learned_tokenizer(texts)
    ids = tokenizer(texts).unflatten(0, (len(faces), WORDINGS))  # (N, WORDINGS, L)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = tiny_clip(tokenizer)

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        # every process takes the whole batch: a picture must find its caption among all of them
        chosen = torch.randint(len(faces), (options.batch_size,), generator=generator)
        wording = torch.randint(WORDINGS, (options.batch_size,), generator=generator)
        mirrored = torch.rand(options.batch_size, generator=generator) < 0.5
        pictures = faces.tensor(chosen.numpy())
        pictures = torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)
        device = next(model.parameters()).device
        return model(pictures.to(device), ids[chosen, wording].to(device)), None

    return Task("clip-toy-faces", model, losses, lambda average, path, told: average.save(tokenizer, path, told))


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(
        prog="python -m helpers.text.train", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--faces", type=int, default=12_000, help="drawn to learn from")
    add_run_arguments(made, steps=1000, batch_size=128, learning_rate=1e-3)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 trained to the end, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
