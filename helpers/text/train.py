"""Train the tiny CLIP on synthetic faces and their captions: `python -m helpers.text.train --help`.

Its tokenizer is trained first, on the same captions. The tiny Stable Diffusion 1 uses the text tower.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from helpers.data import load_faces
from helpers.data.captions import CAPTION_VARIANTS, caption_variants
from helpers.text.bpe import BytePairTokenizer, Pair, merge_pair, split_words, to_symbols
from helpers.text.clip import CLIPTowerConfig
from helpers.text.contrastive import CLIP
from helpers.training.arguments import positive_int, training_parser
from helpers.training.run import Task, train_command

if TYPE_CHECKING:
    from accelerate import Accelerator

LENGTH = 24  # tokens: the longest caption has 15, start and end come on top


def tiny_clip(tokenizer: BytePairTokenizer) -> CLIP:
    """An untrained CLIP for synthetic faces of 64x64 pixels."""
    tower = CLIPTowerConfig(width=128, layers=4, heads=4, mlp=512, projection=64)
    text = replace(tower, vocabulary=len(tokenizer), length=LENGTH)
    image = replace(tower, size=64, patch=8)
    return CLIP(text, image, tokenizer.eos_id)


def learn_merges(texts: Sequence[str], count: int) -> Iterator[Pair]:
    """Train byte-pair encoding: yield the most frequent pair of symbols, merge it everywhere, and count again.

    At most `count` merges. Pairs that occur once are not worth a token; equally frequent ones are taken in alphabetical
    order. Only words that hold the merged pair are counted again.
    """
    word_counts: Counter[str] = Counter()
    for text in texts:
        word_counts.update(split_words(text))
    symbols_of: dict[str, list[str]] = {}
    pairs: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[str]] = defaultdict(set)  # that hold a pair, or did before a merge

    def replace_symbols(word: str, symbols: list[str]) -> None:
        for pair in pairwise(symbols_of.get(word, [])):
            pairs[pair] -= word_counts[word]
        for pair in pairwise(symbols):
            pairs[pair] += word_counts[word]
            words_with[pair].add(word)
        symbols_of[word] = symbols

    for word in word_counts:
        replace_symbols(word, to_symbols(word))
    for _ in range(count):
        most = max(pairs.values(), default=0)
        if most < 2:
            return
        best = min(pair for pair, times in pairs.items() if times == most)
        for word in words_with.pop(best):
            replace_symbols(word, merge_pair(symbols_of[word], best))
        yield best


def train_tokenizer(texts: Sequence[str]) -> BytePairTokenizer:
    """Learn merges until every word of the captions is one token."""
    return BytePairTokenizer(list(learn_merges(texts, 1000)), LENGTH)


def task(options: argparse.Namespace, accelerator: "Accelerator") -> Task:
    """Build the training that the options describe: data, model, and how to save and sample."""
    faces = load_faces("toy-faces", "train", 64, limit=options.faces, progress=accelerator.is_main_process)
    assert faces.attributes is not None, "synthetic faces have attributes"
    texts = caption_variants(faces.attributes, CAPTION_VARIANTS)
    tokenizer = train_tokenizer(texts)
    ids = tokenizer(texts).unflatten(0, (len(faces), CAPTION_VARIANTS))  # (N, V, L)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = tiny_clip(tokenizer)

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        # every process takes the whole batch: the loss compares every image with all captions
        indices = torch.randint(len(faces), (options.batch_size,), generator=generator)
        variants = torch.randint(CAPTION_VARIANTS, (options.batch_size,), generator=generator)
        mirrored = torch.rand(options.batch_size, generator=generator) < 0.5
        images = faces.tensor(indices.numpy())
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        device = next(model.parameters()).device
        return model(images.to(device), ids[indices, variants].to(device)), None

    def save(average: nn.Module, path: Path, metadata: dict[str, str]) -> None:
        assert isinstance(average, CLIP)
        average.save(tokenizer, path, metadata)

    return Task("clip-toy-faces", model, losses, save)


def parser() -> argparse.ArgumentParser:
    """The command's options; `--help` prints them."""
    return training_parser(
        "helpers.text.train", __doc__, _add_arguments, steps=1000, batch_size=128, learning_rate=1e-3
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--faces", type=positive_int, default=12_000, help="how many synthetic faces to train on")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 finished, 130 interrupted and saved."""
    return train_command(parser(), argv, task)


if __name__ == "__main__":
    raise SystemExit(main())
