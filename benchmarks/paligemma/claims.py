"""PaliGemma: parity with transformers, speed and memory beside its `generate`, the accuracy of the tiny weights.

python -m benchmarks check paligemma    # parity and answers recomputed, the timings read: minutes
python -m benchmarks paligemma          # times reading and writing beside transformers
"""

import json
import statistics
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Comparison, alternating, compared, peak_tensors, range_of, recorded
from benchmarks.paligemma import parity
from benchmarks.paligemma.parity import PROMPTS
from benchmarks.paligemma.reference import SMALL, TOKENIZER, left_padded, ours_of, reference
from benchmarks.record import hardware, parameter_count, write_record
from benchmarks.report import Row, at_least, at_most, claim
from helpers.course import repository_root
from helpers.vlm.decoding import CachedDecoder, generate
from helpers.vlm.gemma import GemmaConfig
from helpers.vlm.minicpm import choose_slice_grid
from helpers.vlm.paligemma import Batch, PaliGemmaConfig, PaliGemmaModel
from helpers.vlm.siglip import SiglipConfig
from helpers.weights import TRAINING_COMMANDS, weights_path

RESULTS = "00_assets/results/paligemma.json"
SIZES = {  # name -> sizes, tokens written per turn
    "smallest": (SMALL, 120),  # so small that all there is to time is the overhead
    "tiny": (PaliGemmaConfig.tiny(len(TOKENIZER), TOKENIZER.image_token_id), 120),
    "one layer of full width": (PaliGemmaConfig(SiglipConfig(layers=1), GemmaConfig(layers=1)), 24),
}
WEIGHTS = ("paligemma", "masks")
FACES = 300
LEAST = {  # kind -> per cent of right answers; of boxes that overlap by half; of mean overlap
    "pattern": 90,
    "place": 90,
    "species": 98,
    "fur": 95,
    "eyes": 90,
    "counting": 95,
    "yes or no": 95,
    "caption, species": 95,
    "caption, fur": 95,
    "left eye": 90,
    "right eye": 90,
    "face mask": 80,
}
TOKENS = {(448, 448): 64, (640, 480): 192, (1920, 1080): 576, (1344, 1344): 640}  # of MiniCPM-V 2.6, published


def check() -> list[Row]:
    """Recompute the claims about PaliGemma and MiniCPM-V."""
    return [*_sizes(), *parity.rows(), *parity.paligemma2_rows(), *_slices(), *_timings(), *_answers()]


def _sizes() -> list[Row]:
    published = {
        "PaliGemma 3B": (PaliGemmaConfig.paligemma_3b_224(), 2_923_466_480),
        "PaliGemma 2 3B": (PaliGemmaConfig.paligemma2("3b"), 3_032_242_416),
    }
    rows = []
    for name, (config, expected) in published.items():
        with torch.device("meta"):
            counted = parameter_count(PaliGemmaModel(config))
        rows.append(claim(f"parameters, {name} at 224 px", f"{counted:,}", f"{expected:,}", counted == expected))
    return rows


def _slices() -> list[Row]:
    return [
        claim(
            f"tokens of a {w}x{h} image in MiniCPM-V 2.6",
            choose_slice_grid(w, h).tokens,
            str(expected),
            choose_slice_grid(w, h).tokens == expected,
        )
        for (w, h), expected in TOKENS.items()
    ]


def _answers() -> list[Row]:
    """Accuracy of the tiny weights on held-out faces."""
    from helpers.data import load_faces
    from helpers.vlm.evaluate import evaluate
    from helpers.vlm.pipeline import PaliGemma

    absent = [name for name in WEIGHTS if not weights_path(name).exists()]
    if absent:
        return [
            Row(f"shipped weights, {name}", "none yet", TRAINING_COMMANDS.get(name, "no command yet"), False)
            for name in absent
        ]
    marks = evaluate(PaliGemma.from_weights(), load_faces(split="val", limit=FACES, progress=False))
    rows = [at_least(f"{task}, {FACES} held-out faces", 100 * marks[task], least, "%") for task, least in LEAST.items()]
    size = sum(weights_path(name).stat().st_size for name in WEIGHTS) / 1e6
    return [*rows, at_most(f"weights, {' and '.join(WEIGHTS)}", size, 12, "MB")]


def _timings() -> list[Row]:
    rows = [comparison.row() for comparison in comparisons()]
    for entry in recorded(RESULTS).get("sizes", []):
        name = entry["size"]
        same = entry["writing"]["same"]
        rows += [
            at_most(f"{name}: difference of the two outputs", entry["reading"]["difference"], 1e-4),
            claim(f"{name}: the tokens written", same, "the same", same == "the same"),
        ]
    return rows


def comparisons() -> list[Comparison]:
    """Reading a prompt and writing an answer beside transformers, from the record."""
    record = recorded(RESULTS)
    entries = []
    peer = "transformers"
    if not record:
        return [Comparison("PaliGemma: speed and memory", peer, None)]
    for entry in record["sizes"]:
        name = f"PaliGemma, {entry['size']}"
        reading = entry["reading"]
        writing = entry["writing"]
        least = 2.0 if entry["size"] == "smallest" else 1.0
        entries += [
            Comparison(f"{name}: time to read a prompt", peer, reading["time_ratio"], reading["time_ratio_spread"], 1),
            Comparison(f"{name}: peak of tensors in reading", peer, reading["tensors_ratio"], None, 1),
            Comparison(
                f"{name}: tokens a second",
                peer,
                writing["speed_ratio"],
                writing["speed_ratio_spread"],
                least,
                more=True,
            ),
        ]
        if max(reading["megabytes"]) > 10:  # below, the process's memory says how torn the heap is
            entries.append(
                Comparison(f"{name}: peak memory of the process in reading", peer, reading["memory_ratio"], None, 1)
            )
    return entries


# --- beside transformers --------------------------------------------------------------------------------------------


def run() -> None:
    """Time reading and writing in two sizes; write the record."""
    record = {
        "hardware": hardware(),
        "sizes": [measured(name) for name in SIZES],
    }
    write_record(repository_root() / RESULTS, record)
    print(json.dumps(record, indent=1))


@torch.inference_mode()
def measured(name: str) -> dict:
    """Reading a prompt (vision tower and all), and writing token after token, in turns on the same weights."""
    config, tokens = SIZES[name]
    theirs = reference(config)
    theirs.generation_config.eos_token_id = None  # both write as many tokens as they are asked for
    ours = ours_of(theirs, config)
    batch = prompt(config)
    reference_input = left_padded(batch)

    def read() -> Tensor:
        return CachedDecoder(ours, batch, max_new_tokens=1).logits

    def read_there() -> Tensor:
        return theirs(**reference_input, use_cache=True, logits_to_keep=1).logits[:, -1]

    reading = compared(read, read_there, 1 if "full" in name else 10)
    tensors = [peak_tensors(call) for call in (read, read_there)]
    reading |= {
        "megabytes_of_tensors": [round(size / 1e6, 3) for size in tensors],
        "tensors_ratio": round(tensors[0] / tensors[1], 3),
    }
    entry = {"size": name, "reading": reading, "writing": writing_speed(ours, theirs, batch, tokens)}
    print(entry, flush=True)
    return entry


def writing_speed(ours: PaliGemmaModel, theirs: Any, batch: Batch, tokens: int) -> dict:
    """Tokens a second: the time for `tokens` less the time for the first, so that reading the prompt does not count."""

    def write(count: int) -> Tensor:
        return torch.stack([step.ids for step in generate(ours, batch, eos_token_id=-1, max_new_tokens=count)], dim=1)

    def write_there(count: int) -> Tensor:
        return theirs.generate(**left_padded(batch), max_new_tokens=count, do_sample=False)[:, batch.ids.shape[1] :]

    calls = [partial(call, count) for call, count in product((write, write_there), (tokens, 1))]
    long, short, long_there, short_there = alternating(calls)
    speeds = [
        [(tokens - 1) / (whole - first) for whole, first in zip(*pair, strict=True)]
        for pair in ((long, short), (long_there, short_there))
    ]
    ratios = [our_speed / their_speed for our_speed, their_speed in zip(*speeds, strict=True)]
    return {
        "tokens_per_second": [round(statistics.median(speed), 2) for speed in speeds],
        "speed_ratio": round(statistics.median(ratios), 3),
        "speed_ratio_spread": range_of(ratios),
        "same": "the same" if torch.equal(write(tokens), write_there(tokens)) else "others",
    }


def prompt(config: PaliGemmaConfig) -> Batch:
    """A batch of one image of noise and a short question."""
    size = config.vision.size
    generator = torch.Generator().manual_seed(0)
    token_ids = [TOKENIZER.bos_token_id, *TOKENIZER(PROMPTS[0] + "\n")]
    ids = torch.tensor([[config.image_token] * config.vision.tokens + token_ids])
    nothing = torch.zeros_like(ids, dtype=torch.bool)
    return Batch(torch.rand(1, 3, size, size, generator=generator) * 2 - 1, ids, ~nothing, nothing)
