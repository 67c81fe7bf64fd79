"""Which change to a training recipe buys better animals for the same processor time? One change at a time.

    python -m benchmarks.tiny_sd.recipes --method pretrained --autoencoder FOLDER  # 10 core-minutes a training
    python -m benchmarks.tiny_sd.recipes --method pixels --perceptual-encoder FOLDER --only baseline muon
    python -m benchmarks.tiny_sd.recipes --method pretrained --autoencoder FOLDER --only recipe --minutes 45 --seeds 3
    python -m benchmarks.tiny_sd.recipes --method peers --minutes 45 --seeds 3  # two libraries on the same images
    python -m benchmarks.tiny_sd.recipes --method pixels --list  # what there is, and what is done
    python -m benchmarks.tiny_sd.recipes --method pixels --keep muon  # note what the recipe takes over

The budget is processor time of one thread, which the baseline's training turns into a number of updates; a change gets
as many updates as cost the same. A training is recorded when it has been judged; the same command again skips what is
recorded and begins an interrupted training anew. How a change is trained and judged is in
`benchmarks.tiny_sd.recipes_trainings`.
"""

import argparse
import json
import os
import secrets
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from benchmarks.report import Row, at_most
from helpers.course import course_home, repository_root

RECORD = "00_assets/results/recipes.json"
SAMPLING = {"steps": 20, "guidance_scale": 3.0}  # guided, 40 evaluations of the network; peers use 50
CLAIMED_MINUTES = 45
CLAIMED_SEEDS = 3
CLAIMS = {"pixels": ("Method 1", 0.5), "pretrained": ("Method 2", 0.25)}  # of the best peer's KID, at most


class Change(NamedTuple):
    """What differs from the baseline; everything else stays as it is there."""

    name: str  # on the command line and in the record
    text: str  # in the table
    options: str = ""  # of `python -m helpers.tiny_sd.train`, added to the baseline's
    coarse: bool = False  # the first half of the budget at half the image size
    sampling: dict[str, Any] | None = None  # arguments of TinySD.generate beside SAMPLING
    average: float | None = None  # length of another average of the weights, followed while the baseline trains
    trained: bool = True  # False: a variant of the baseline that needs no training of its own


BASELINES = {  # options of the training command
    "pixels": "--widths 64 128 192 --patch 4 --batch-size 32 --learning-rate 0.001 --dropout 0 --ema 0.999",
    "pretrained": "--widths 128 192 --patch 1 --batch-size 32 --learning-rate 0.001 --dropout 0.1 --ema 0.999",
}
# Lengths of averages relative to the training's (sigma_rel of EDM2, Karras et al. 2024, section 3.1). The usual average
# ramps up as (1 + n) / (10 + n) and reaches a decay of 0.999 after 9,000 updates only: until then it has length 0.09.
AVERAGES = (
    Change(
        "average-0.05",
        "shorter average of the weights: relative length 0.05 instead of 0.09",
        average=0.05,
        trained=False,
    ),
    Change("average-0.15", "longer average of the weights: relative length 0.15", average=0.15, trained=False),
)
GUIDANCE = tuple(
    Change(*words, sampling=sampling, trained=False)
    for *words, sampling in (
        ("guidance-1.5", "guidance 1.5 instead of 3", {"guidance_scale": 1.5}),
        ("guidance-2", "guidance 2", {"guidance_scale": 2.0}),
        ("guidance-5", "guidance 5", {"guidance_scale": 5.0}),
        ("interval", "guidance 3 between t = 0.2 and 0.8 only", {"interval": (0.2, 0.8)}),
        ("interval-5", "guidance 5 between t = 0.2 and 0.8 only", {"guidance_scale": 5.0, "interval": (0.2, 0.8)}),
    )
)
OPTIMISATION = (
    Change("batch-16", "batches of 16 instead of 32", "--batch-size 16"),
    Change("batch-64", "batches of 64", "--batch-size 64"),
    Change("rate-2e-3", "learning rate 0.002 instead of 0.001", "--learning-rate 0.002"),
    Change("rate-5e-4", "learning rate 0.0005", "--learning-rate 0.0005"),
    Change("muon", "Muon instead of AdamW", "--optimizer muon"),
)
CHANGES = {
    "pretrained": (
        Change("baseline", "baseline: widths 128 and 192, patch 1, batch 32, AdamW 0.001, dropout 0.1, EMA 0.999"),
        Change("narrower", "narrower: widths 96 and 128", "--widths 96 128"),
        Change("wider", "wider: widths 160 and 256", "--widths 160 256"),
        *OPTIMISATION,
        Change("no-dropout", "no dropout", "--dropout 0"),
        *AVERAGES,
        *GUIDANCE,
        Change("recipe", "the recipe: all changes that were kept"),
    ),
    "pixels": (
        Change("baseline", "baseline: widths 64, 128 and 192, patch 4, batch 32, AdamW 0.001, EMA 0.999"),
        Change("narrower", "narrower: widths 48, 96 and 128", "--widths 48 96 128"),
        Change("wider", "wider: widths 96, 192 and 256", "--widths 96 192 256"),
        Change("patch-2", "patches of 2 × 2 pixels instead of 4 × 4", "--patch 2"),
        *OPTIMISATION,
        Change("coarse-to-fine", "coarse to fine: half of the time at 32 px, then 64 px", coarse=True),
        Change("perceptual-0.05", "perceptual loss on the predicted image, weight 0.05", "--perceptual 0.05"),
        Change("perceptual-0.1", "perceptual loss, weight 0.1", "--perceptual 0.1"),
        Change(
            "perceptual-cheap",
            "perceptual loss, weight 0.1, on squares of 32 px and below t = 0.7",
            "--perceptual 0.1 --perceptual-crop 32 --perceptual-until 0.7",
        ),
        Change("dropout", "dropout 0.1", "--dropout 0.1"),
        Change("augment", "augmentation that does not leak, probability 0.15", "--augment 0.15"),
        *AVERAGES,
        *GUIDANCE,
        Change("recipe", "the recipe: all changes that were kept"),
    ),
    "peers": (  # trained as their documentation shows
        Change("ddp-documented", "in its documented shape"),
        Change("ddp-stem", "with our stem: 4 × 4 pixels folded into channels, predicting the image"),
        Change("diffusers-documented", "in its documented shape"),
        Change("diffusers-stem", "with our stem: 4 × 4 pixels folded into channels, predicting the image"),
    ),
}
# The changes that were kept, together: `options`, `coarse` and `sampling` beside the baseline's. They are written here
# when they are known; until then the recipe is the baseline.
RECIPES = {"pretrained": Change("recipe", ""), "pixels": Change("recipe", "")}
PEERS = {"ddp": "denoising-diffusion-pytorch", "diffusers": "diffusers UNet2DModel"}


def changes(method: str) -> dict[str, Change]:
    """All changes of a method by name, the recipe with what it consists of."""
    found = {change.name: change for change in CHANGES[method]}
    if method in RECIPES:
        recipe = RECIPES[method]
        found["recipe"] = recipe._replace(text=found["recipe"].text)
    return found


def method_of(method: str, change: Change) -> str:
    """What the record calls the method."""
    return f"peer {PEERS[change.name.split('-')[0]]}" if method == "peers" else method


# --- the record: a list of rows, one for each method, change and budget, with an entry for every seed -----------------


def read_rows(path: Path) -> list[dict]:
    """The rows; none where nothing was recorded."""
    return json.loads(path.read_text()) if path.exists() else []


def find_row(rows: list[dict], method: str, name: str, minutes: float) -> dict | None:
    """The row of a change at a budget."""
    wanted = (method, name, minutes)
    return next((row for row in rows if (row["method"], row["name"], row["core_minutes"]) == wanted), None)


def seeds_of(row: dict | None) -> set[int]:
    """Which seeds a row has."""
    return {run["seed"] for run in row["runs"]} if row else set()


def add_run(path: Path, method: str, change: Change, minutes: float, setup: dict, run: dict) -> dict:
    """Write one judged training into the record, whole or not at all, and return its row.

    Raises:
        SystemExit: where the row's other seeds were measured with another setup.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = course_home() / "recipes.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        rows = read_rows(path)
        row = find_row(rows, method, change.name, minutes)
        if row is None:
            row = {
                "method": method,
                "change": change.text,
                "core_minutes": minutes,
                "name": change.name,
                "kept": change.name == "baseline",
                "setup": setup,
                "runs": [],
            }
            rows.append(row)
        refuse_another_setup(row, setup)
        others = [one for one in row["runs"] if one["seed"] != run["seed"]]
        row["runs"] = sorted([*others, run], key=lambda one: one["seed"])
        row.update(change=change.text, **summary(row["runs"], minutes))
        write_rows(path, rows)
    return row


def refuse_another_setup(row: dict, setup: dict) -> None:
    """Figures that were measured in different ways must not be averaged, nor stand for one another."""
    if row["setup"] != (now := json.loads(json.dumps(setup))):
        was = {name: row["setup"].get(name) for name in now if row["setup"].get(name) != now[name]}
        raise SystemExit(
            f"{row['method']}, {row['name']} was measured with another setup ({was}): use --record with "
            "another file, or take its row out of the record"
        )


def summary(runs: list[dict], minutes: float) -> dict:
    """What a row says of all its seeds: means, and the standard deviation over seeds of the KID."""
    kids = [run["kid"] for run in runs]
    classes = {
        name: round(statistics.mean(run["judged_by_class"][name] for run in runs), 1)
        for name in runs[0]["judged_by_class"]
    }
    steps = round(statistics.mean(run["steps"] for run in runs))
    notes = [
        f"{steps:,} updates, {statistics.mean(run['epochs'] for run in runs):.2g} epochs",
        ", ".join(f"{name} {value:.0f} %" for name, value in classes.items()),
    ]
    used = statistics.mean(run["core_minutes_used"] for run in runs)
    if abs(used / minutes - 1) > 0.1:
        notes.append(f"used {used:.3g} core-minutes")
    return {
        "seeds": len(runs),
        "kid": round(statistics.mean(kids), 4),
        "kid_std": round(statistics.stdev(kids), 4) if len(kids) > 1 else None,
        "judged": round(statistics.mean(run["judged"] for run in runs), 1),
        "judged_by_class": classes,
        "note": "; ".join(notes),
        "steps": steps,
        "images": round(statistics.mean(run["images"] for run in runs)),
        "parameters": runs[0]["parameters"],
        "options": runs[0]["options"],
        "date": max(run["date"] for run in runs),
        "processor": "; ".join(dict.fromkeys(run["processor"] for run in runs)),
    }


def write_rows(path: Path, rows: list[dict]) -> None:
    """Replace the record in one move, the rows in the order of this file."""
    order = [(method_of(method, change), change.name) for method, some in CHANGES.items() for change in some]

    def place(row: dict) -> tuple[float, int]:
        key = (row["method"], row["name"])
        return row["core_minutes"], order.index(key) if key in order else len(order)

    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fresh.write_text(json.dumps(sorted(rows, key=place), indent=1) + "\n")
    os.replace(fresh, path)


# --- the claims -------------------------------------------------------------------------------------------------------


def check() -> list[Row]:
    """Read the record; its photographs are not part of the repository."""
    rows = read_rows(repository_root() / RECORD)
    found = [_claim(rows, method) for method in CLAIMS]
    for row in rows:
        if row["name"] == "recipe" or row["method"].startswith("peer "):
            name = f"{row['method']}, {row['change'].partition(':')[0]}, {row['core_minutes']:g} core-minutes"
            kid = f"{row['kid']:.3f}" + ("" if row["kid_std"] is None else f" ± {row['kid_std']:.3f}")
            told = f"KID {kid}, judged correct {row['judged']:.0f} %, {row['seeds']} seeds"
            found.append(Row(name, told, "printed", True))
    return found


def _claim(rows: list[dict], method: str) -> Row:
    title, share = CLAIMS[method]
    name = f"{title} after {CLAIMED_MINUTES} core-minutes: KID over the best peer's"
    ours = find_row(rows, method, "recipe", CLAIMED_MINUTES)
    peers = [find_row(rows, method_of("peers", peer), peer.name, CLAIMED_MINUTES) for peer in CHANGES["peers"]]
    everyone = [ours, *peers]
    if not any(everyone):
        return Row(name, "never run", "python -m benchmarks.tiny_sd.recipes", False)
    if any(row is None or row["seeds"] < CLAIMED_SEEDS for row in everyone):
        seeds = ", ".join(str(row["seeds"] if row else 0) for row in everyone)
        return Row(name, f"seeds of ours and of {len(peers)} peers: {seeds}", f"{CLAIMED_SEEDS} each", False)
    if method != "pixels" and not ours["setup"]["encoding_counted"]:
        return Row(name, "without the time of encoding", "--count-encoding", False)
    return at_most(name, ours["kid"] / min(row["kid"] for row in peers), share, "x")


# --- the command line -------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.tiny_sd.recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--method", choices=list(CHANGES), default="pretrained", help="whose recipe; peers: two libraries")
    add("--minutes", type=float, default=10, help="core-minutes of a training (default 10)")
    add("--only", nargs="+", metavar="NAME", help="these changes alone; --list shows their names")
    add("--seeds", type=int, default=1, help="trainings of each change (default 1)")
    add("--autoencoder", help="of Method 2: a name, file or folder, see helpers.autoencoders.load")
    add("--perceptual-encoder", help="of the perceptual loss (default: --autoencoder)")
    add("--count-encoding", action="store_true", help="take the time of encoding all images out of Method 2's budget")
    add("--size", type=int, default=64, help="of the images, pixels (default 64)")
    add("--samples", type=int, default=100, help="generated images of each class, and photographs (default 100)")
    add("--limit", type=int, help="train on so many photographs at most")
    add("--record", type=Path, default=repository_root() / RECORD, help=f"default {RECORD}")
    add("--list", action="store_true", help="show the changes and which seeds are recorded, and train nothing")
    add("--keep", nargs="+", metavar="NAME", help="mark recorded changes as kept in the recipe, and train nothing")
    add("--drop", nargs="+", metavar="NAME", help="the opposite of --keep")
    return made


def chosen(options: argparse.Namespace) -> list[Change]:
    """What to train, in order.

    Raises:
        SystemExit: for names that are no changes of the method, and for encoders that are missing.
    """
    every = changes(options.method)
    names = options.only or [name for name in every if name != "recipe"]
    if unknown := [name for name in names if name not in every]:
        raise SystemExit(f"no change {', '.join(unknown)} of {options.method}; there are: {', '.join(every)}")
    found = [every[name] for name in names]
    if options.method == "pretrained" and not options.autoencoder:
        raise SystemExit("--method pretrained needs --autoencoder")
    if any("--perceptual" in change.options for change in found) and not (
        options.perceptual_encoder or options.autoencoder
    ):
        raise SystemExit("the perceptual loss needs --perceptual-encoder; or leave it out with --only")
    return found


def mark(options: argparse.Namespace) -> None:
    """--keep and --drop, at every budget. Raises SystemExit for changes that were never recorded."""
    rows = read_rows(options.record)
    for name, kept in [(name, True) for name in options.keep or []] + [(name, False) for name in options.drop or []]:
        found = [row for row in rows if row["method"] == options.method and row["name"] == name]
        if not found:
            raise SystemExit(f"nothing is recorded of {options.method}, {name}")
        for row in found:
            row["kept"] = kept
    write_rows(options.record, rows)


def show(options: argparse.Namespace) -> None:
    """--list: the changes with the seeds that are recorded."""
    rows = read_rows(options.record)
    for change in changes(options.method).values():
        row = find_row(rows, method_of(options.method, change), change.name, options.minutes)
        done = f"{row['seeds']} seeds, KID {row['kid']:.3f}, judged {row['judged']:.0f} %" if row else "-"
        print(f"{change.name:22}{done:42}{change.text}{'' if change.trained else ' (no training)'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 all done, 130 interrupted."""
    options = parser().parse_args(argv)
    if options.keep or options.drop:
        mark(options)
        return 0
    if options.list:
        show(options)
        return 0
    from benchmarks.tiny_sd.recipes_trainings import Trainings

    wanted = chosen(options)
    trainings = Trainings(options)
    try:
        for seed in range(options.seeds):
            for change in wanted:
                _one(options, trainings, change, seed)
    except KeyboardInterrupt:
        print("stopped; the same command goes on after the last recorded training", file=sys.stderr)
        return 130
    return 0


def _one(options: argparse.Namespace, trainings: Any, change: Change, seed: int) -> None:
    """Train and judge one change with one seed, unless the record has it."""
    method = method_of(options.method, change)
    row = find_row(read_rows(options.record), method, change.name, options.minutes)
    if row:
        refuse_another_setup(row, trainings.setup)
    if seed in seeds_of(row):
        print(f"{change.name}, seed {seed}: recorded already", flush=True)
        return
    run = trainings.run(change, seed)
    row = add_run(options.record, method, change, options.minutes, trainings.setup, run)
    print(
        f"{change.name}, seed {seed}: KID {run['kid']:.3f} ± {run['kid_error']:.3f}, judged {run['judged']:.0f} %; "
        f"{row['note']}",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
