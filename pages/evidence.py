"""Tables: figures beside other libraries and on a GPU, faults that were tried, changes to the recipes.

`python -m benchmarks all` and `python -m benchmarks faults` write the records; what trained the shipped weights is
read from their files.
"""

import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pages.record import ROOT

RESULTS = ROOT / "00_assets" / "results"
BESIDE = RESULTS / "beside.json"
FAULTS = RESULTS / "faults.json"
CUDA = RESULTS / "cuda.json"
GPU_ESTIMATES = RESULTS / "gpu_estimates.json"
RECIPES = RESULTS / "recipes.json"
WEIGHTS = ROOT / "00_assets" / "weights"
JOINED = "\xa0"  # stands for the spaces of one option while a command is folded
METHODS = {
    "pixels": "Method 1: in pixels",
    "pretrained": "Method 2: in the latents of a pretrained autoencoder",
    "own": "Method 3: in the latents of an autoencoder of our own",
}
SOURCES = {"toy-faces": "synthetic faces", "animal-faces": "photographs", "patterns": "shapes and textures"}


def beside(path: Path = BESIDE) -> list[str]:
    """Lines of Markdown: what, beside whom, the ratio with its range, what is promised; none without a record."""
    if not (record := _read(path)):
        return []
    lines = ["| | beside | ratio | smallest to largest | promised |", "|---|---|---:|---:|---:|"]
    for row in record["rows"]:
        ratio_range = " to ".join(f"{ratio:.2f}" for ratio in row["spread"] or [])
        short = "" if row["ok"] else " (short)"
        lines.append(
            f"| {row['what']} | {row['peer']} | {row['ratio']:.2f}{short} | {ratio_range} | {row['promised']} |"
        )
    machines = "; ".join(dict.fromkeys(row["hardware"] for row in record["rows"]))
    return [
        *lines,
        "",
        "Alternating in one process (imports: each in its own), the course's figure over the other's: "
        "the median of five rounds, of up to 25 where they are short. "
        f"Measured on {machines}.",
    ]


def cuda(path: Path = CUDA) -> list[str]:
    """Lines of Markdown: the speed of training on a GPU; a sentence where nothing was measured."""
    if not (record := _read(path)):
        return ["On a GPU nothing has been measured yet."]
    lines = [
        f"On a GPU ({record['hardware']}), under a cap of {record['cap_gib']:g} GiB:",
        "",
        "| method | compiled | images/s | peak GiB | of the card's arithmetic |",
        "|---|---|---:|---:|---:|",
    ]
    return lines + [
        f"| {row['method']} | {'yes' if row['compiled'] else 'no'} | {row['images_per_second']:.0f} | "
        f"{row['peak_gib']:.1f} | {row['utilisation']:.0%} |"
        for row in record["trainings"]
    ]


def gpu_estimates(path: Path = GPU_ESTIMATES) -> list[str]:
    """Lines of Markdown: what the `gpu` profile trains and for how long, by estimate; none without a record."""
    if not (record := _read(path)):
        return []
    lines = ["| notebook | trains | updates | images in each | minutes (estimate) |", "|---|---|---:|---:|---:|"]
    for row in record["rows"]:
        minutes = math.ceil(row["minutes"])
        lines.append(f"| {row['notebook']} | {row['what']} | {row['updates']:,} | {row['batch_size']} | {minutes} |")
    return [
        *lines,
        "",
        f"Estimated for an {record['card']}, not measured: the floating-point operations of an update are counted, "
        f"and the card is taken to do {record['share']:.0%} of its {record['peak'] / 1e12:.1f} TFLOP/s; where the "
        "network is so small that the card waits for the program, "
        f"{1e6 * record['launch']:.0f} microseconds for each operation count instead.",
    ]


def faults(path: Path = FAULTS) -> list[str]:
    """Lines of Markdown: the fault, times tried, how often all went as promised, what was lost; none without record."""
    if not (record := _read(path)):
        return []
    rows = [f"| {row['fault']} | {row['tried']} | {row['noticed']} | {row['lost']} |" for row in record["faults"]]
    return ["| fault | tried | as promised | lost |", "|---|---:|---:|---|", *rows]


def recipes(path: Path = RECIPES) -> list[str]:
    """Lines of Markdown: for each method, every change that was tried and its result; a sentence without a record.

    The record is a list of rows: method ("pixels", "pretrained" or "own"), change, core_minutes, seeds, kid, kid_std
    (None for one seed), judged (per cent), note, kept (did the change stay?) and processor.
    """
    rows = _read(path)
    if not rows:
        return ["The measurements are under way."]
    lines = []
    for method, title in METHODS.items():
        if tried := [row for row in rows if row["method"] == method]:
            lines += [f"## {title}", "", *_recipe_table(tried), ""]
    processors = "; ".join(dict.fromkeys(row["processor"] for row in rows))
    return [*lines, f"Measured on {processors}."]


def _recipe_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    head = "| change | core-minutes | seeds | KID | judged correct | kept | note |"
    lines = [head, "|---|---:|---:|---:|---:|---|---|"]
    for row in rows:
        deviation = "" if row["kid_std"] is None else f"\u00a0±\u00a0{row['kid_std']:.3f}"
        cells = [
            row["change"],
            f"{row['core_minutes']:g}",
            str(row["seeds"]),
            f"{row['kid']:.3f}{deviation}",
            f"{row['judged']:.0f} %",
            "yes" if row["kept"] else "no",
            row["note"],
        ]
        escaped = [cell.replace("|", r"\|") for cell in cells]
        lines.append(f"| {' | '.join(escaped)} |")
    return lines


def shipped(folder: Path = WEIGHTS) -> list[str]:
    """Lines of Markdown: for each weights file that ships: its data, its processor time and its command."""
    lines = []
    for path in sorted(folder.glob("*.safetensors")):
        about = _metadata(path)
        facts = [_data(about), *_core_minutes(about)]
        lines += [f"# {path.stem}: {', '.join(facts)}", folded(about["command"]), ""]
    return ["```sh", *lines[:-1], "```"]


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.metadata()


def _data(about: Mapping[str, str]) -> str:
    """The training data of a weights file; for photographs also how many of each class, and the licence."""
    source = about.get("source", "toy-faces")
    if "photographs" in about:
        return f"{about['photographs']} (photographs: non-commercial use only)"
    return SOURCES.get(source, source)


def _core_minutes(about: Mapping[str, str]) -> list[str]:
    """Processor time summed over all cores; older files hold the seconds and the threads, or nothing."""
    if "core_minutes" in about:
        return [f"{float(about['core_minutes']):.0f} core-minutes"]
    return [f"{float(about['seconds']) * int(about['threads']) / 60:.0f} core-minutes"] if "seconds" in about else []


def large() -> list[str]:
    """Lines of Markdown: the commands for 256 and 512 pixels."""
    from helpers.tiny_sd.large_images import COMMANDS

    return ["```sh", *map(folded, COMMANDS), "```"]


def folded(command: str, width: int = 72) -> str:
    """A command over several lines, as wide as a page shows them; an option stays together with its values."""
    options = [option.replace(" ", JOINED) for option in re.split(" (?=--)", command)]
    parts = textwrap.wrap(
        " ".join(options), width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return " \\\n".join(parts).replace(JOINED, " ")


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}
