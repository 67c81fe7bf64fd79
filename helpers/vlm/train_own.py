"""Train or fine-tune the tiny PaliGemma on examples of one's own: `python -m helpers.vlm.train --source FILE.jsonl`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from helpers.training.arguments import naming_option
from helpers.training.processes import process_share
from helpers.training.setup import Task
from helpers.vlm.own_examples import OwnExamples, load_own_examples
from helpers.vlm.paligemma import Batch, PaliGemmaConfig, PaliGemmaModel
from helpers.vlm.pipeline import PaliGemma, save_model
from helpers.vlm.processor import Processor, Tokenizer
from helpers.weights import read_config, read_metadata

if TYPE_CHECKING:
    from accelerate import Accelerator

SIZE = 64  # pixels a side, where no --start says otherwise
MAX_MEASURED = 200  # held-out examples that are answered


def own_task(options: argparse.Namespace, accelerator: Accelerator) -> Task:
    """Load the examples and build model, loss and a measurement on held-out images, as the options say."""
    with naming_option("--start"):
        start = PaliGemma.from_weights(options.start, masks=None) if options.start else None
    with naming_option("--source"):
        data = load_own_examples(options.source, start.model.config.vision.size if start else SIZE)
        prefixes = [example.prefix for example in data.examples]
        suffixes = [example.suffix for example in data.examples]
        tokenizer = start.tokenizer if start else Tokenizer.from_texts([*prefixes, *suffixes])
        config = start.model.config if start else PaliGemmaConfig.tiny(len(tokenizer), tokenizer.image_token_id)
        processor = Processor(tokenizer, config.vision.size, config.vision.tokens)
        processor.tokenize(prefixes, suffixes)  # a word that the model does not know shows before the training
    train, held_out = data.split()
    tasks = tuple(sorted({*(start.tasks or () if start else ()), *(_first_word(prefix) for prefix in prefixes)}))
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = start.model if start else PaliGemmaModel(config)

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, None]:
        index = torch.randint(len(train.examples), (options.batch_size,), generator=generator)
        batch = batch_of(train, index, processor)
        shares = Batch(*(process_share(accelerator, part) for part in batch))
        return model(shares.to(accelerator.device)), None

    def save(average: PaliGemmaModel, path: Path, metadata: dict[str, str]) -> None:
        masks = read_config(options.start).get("masks", "") if options.start else ""
        save_model(average, tokenizer, path, metadata, masks=masks, tasks=tasks)

    def measure(average: PaliGemmaModel, path: Path) -> None:
        correct, measured = count_exact_answers(PaliGemma(average, tokenizer), held_out)
        print(f"{correct} of {measured} answers about held-out images are exactly right", flush=True)

    origin = _inherited_metadata(options.start) if options.start else {}
    name = f"paligemma-{Path(options.source).stem}"
    return Task(name, model, losses, save, measure if held_out.examples else None, asdict(config), None, origin)


def _inherited_metadata(weights: str) -> dict[str, str]:
    """Which weights a fine-tuning started from, and their licence where they have one."""
    metadata = read_metadata(weights)
    inherited = {"start_sha256": metadata["sha256"]}
    return inherited | ({"licence": metadata["licence"]} if "licence" in metadata else {})


def batch_of(data: OwnExamples, index: Tensor, processor: Processor) -> Batch:
    """A batch of the examples with these indices, int64 (B,)."""
    examples = [data.examples[i] for i in index.tolist()]
    text = processor.tokenize([example.prefix for example in examples], [example.suffix for example in examples])
    return Batch(data.pixels(index), *text)


def count_exact_answers(assistant: PaliGemma, data: OwnExamples) -> tuple[int, int]:
    """How many examples are answered word for word, and of how many: the first MAX_MEASURED."""
    examples = data.examples[:MAX_MEASURED]
    images = list(data.pixels(torch.arange(len(examples))))
    predictions = assistant.generate(images, [example.prefix for example in examples])
    return sum(text == example.suffix for text, example in zip(predictions, examples, strict=True)), len(examples)


def _first_word(prefix: str) -> str:
    return prefix.split()[0] if prefix.split() else ""
