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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row, at_most
from benchmarks.tiny_sd.recipes_changes import CHANGES, Change, changes, method_of
from benchmarks.tiny_sd.recipes_record import add_run, find_row, read_rows, refuse_another_setup, seeds_of, write_rows
from helpers.course import repository_root

RECORD = "00_assets/results/recipes.json"
CLAIMED_MINUTES = 45
CLAIMED_SEEDS = 3
CLAIMS = {"pixels": ("Method 1", 0.5), "pretrained": ("Method 2", 0.25)}  # of the best peer's KID, at most


# --- the claims -------------------------------------------------------------------------------------------------------


def check() -> list[Row]:
    """Read the record; its photographs are not part of the repository."""
    rows = read_rows(repository_root() / RECORD)
    claims = [_claim(rows, method) for method in CLAIMS]
    for row in rows:
        if row["name"] == "recipe" or row["method"].startswith("peer "):
            name = f"{row['method']}, {row['change'].partition(':')[0]}, {row['core_minutes']:g} core-minutes"
            kid = f"{row['kid']:.3f}" + ("" if row["kid_std"] is None else f" ± {row['kid_std']:.3f}")
            text = f"KID {kid}, judged correct {row['judged']:.0f} %, {row['seeds']} seeds"
            claims.append(Row(name, text, "printed", True))
    return claims


def _claim(rows: list[dict], method: str) -> Row:
    title, share = CLAIMS[method]
    name = f"{title} after {CLAIMED_MINUTES} core-minutes: KID over the best peer's"
    ours = find_row(rows, method, "recipe", CLAIMED_MINUTES)
    peers = [find_row(rows, method_of("peers", peer), peer.name, CLAIMED_MINUTES) for peer in CHANGES["peers"]]
    seeds = [row["seeds"] if row else 0 for row in (ours, *peers)]
    if not any(seeds):
        return Row(name, "never run", "python -m benchmarks.tiny_sd.recipes", False)
    if ours is None or min(seeds) < CLAIMED_SEEDS:
        counts = ", ".join(map(str, seeds))
        return Row(name, f"seeds of ours and of {len(peers)} peers: {counts}", f"{CLAIMED_SEEDS} each", False)
    if method != "pixels" and not ours["setup"]["encoding_counted"]:
        return Row(name, "without the time of encoding", "--count-encoding", False)
    return at_most(name, ours["kid"] / min(row["kid"] for row in peers if row), share, "x")


# --- the command line -------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    command_line = argparse.ArgumentParser(
        prog="python -m benchmarks.tiny_sd.recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command_line.add_argument
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
    return command_line


def chosen(options: argparse.Namespace) -> list[Change]:
    """What to train, in order.

    Raises:
        SystemExit: for names that are no changes of the method, and for encoders that are missing.
    """
    every = changes(options.method)
    names = options.only or [name for name in every if name != "recipe"]
    if unknown := [name for name in names if name not in every]:
        raise SystemExit(f"no change {', '.join(unknown)} of {options.method}; there are: {', '.join(every)}")
    chosen_changes = [every[name] for name in names]
    if options.method == "pretrained" and not options.autoencoder:
        raise SystemExit("--method pretrained needs --autoencoder")
    if any("--perceptual" in change.options for change in chosen_changes) and not (
        options.perceptual_encoder or options.autoencoder
    ):
        raise SystemExit("the perceptual loss needs --perceptual-encoder; or leave it out with --only")
    return chosen_changes


def mark(options: argparse.Namespace) -> None:
    """--keep and --drop, at every budget. Raises SystemExit for changes that were never recorded."""
    rows = read_rows(options.record)
    for name, kept in [(name, True) for name in options.keep or []] + [(name, False) for name in options.drop or []]:
        matching = [row for row in rows if row["method"] == options.method and row["name"] == name]
        if not matching:
            raise SystemExit(f"nothing is recorded of {options.method}, {name}")
        for row in matching:
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

    selected = chosen(options)
    trainings = Trainings(options)
    try:
        for seed in range(options.seeds):
            for change in selected:
                _run_once(options, trainings, change, seed)
    except KeyboardInterrupt:
        print("stopped; the same command goes on after the last recorded training", file=sys.stderr)
        return 130
    return 0


def _run_once(options: argparse.Namespace, trainings: Any, change: Change, seed: int) -> None:
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
