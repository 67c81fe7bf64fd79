"""The networks that generate real animals, measured: judged, compared with photographs, laid beside a competitor.

    python -m benchmarks.tiny_sd.animals                     # every network whose weights are there: minutes each
    python -m benchmarks.tiny_sd.animals tiny_sd_animals     # one of them
    python -m benchmarks.tiny_sd.animals --fid [NAME ...]    # FID, five seeds: hours; goes on where it was stopped
    python -m benchmarks.tiny_sd.animals --autoencoders      # what the networks' autoencoders alone cost: minutes
    python -m benchmarks.tiny_sd.animals --images            # the README's image of unchosen samples; with
                                     # --autoencoder FOLDER another autoencoder than the shipped one decodes them
    python -m benchmarks check tiny_sd               # recomputes what can be recomputed from the shipped weights

Measuring needs the photographs (ANIMAL_FACES_DIR) and the judge's packages; FID needs Inception as well
(`helpers.scoring.inception`). Each network's scores are written to the record without touching the others'.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from datetime import date
from itertools import chain
from typing import Any, NamedTuple

from benchmarks.record import hardware, parameter_count, read_record, write_record
from benchmarks.report import Row, at_least, at_most
from benchmarks.tiny_sd import animals_fid
from benchmarks.tiny_sd.animals_baselines import autoencoder_alone, autoencoder_rows, baseline, photograph_row
from benchmarks.tiny_sd.animals_image import IMAGE, write_image
from benchmarks.tiny_sd.animals_scores import (
    MOST_EVALUATIONS,
    Judge,
    Photographs,
    Sampling,
    Trial,
    choose_sampling,
    evaluate,
    load_photographs,
)
from helpers.course import repository_root
from helpers.tiny_sd.model import TinySD
from helpers.weights import TRAINING_COMMANDS, read_metadata, weights_path

RECORD = "00_assets/results/animals.json"
MOST_MEGABYTES = 20  # of one network's weights
COLOUR_RANGE = 90  # % of the photographs' range of each colour that the samples reach
SHOWN = ("tiny_sd_animals_128", "tiny_sd_animals")  # the first of these that is there is shown
DEFAULT = Sampling(3.0)  # for a figure of a network that was not measured yet


class Network(NamedTuple):
    """One shipped network, and what is claimed of it."""

    title: str
    overall: float  # judged as what was asked for: at least, %
    each: float  # the same of each class
    kid: float  # to held-out photographs, in the judge's features: at most
    fid: float | None = None  # by the competitor's protocol: at most; None: reported only


NETWORKS = {
    "tiny_sd_animals_pixels": Network("Method 1, 64 px", 90, 80, 0.08),
    "tiny_sd_animals": Network("Method 2, 64 px", 97, 92, 0.03),
    "tiny_sd_animals_128": Network("Method 2, 128 px", 95, 90, 0.03, fid=45),
    "tiny_sd_animals_own": Network("Method 3, 64 px", 90, 80, 0.08),
}


def shipped() -> list[str]:
    """The networks whose weights are there."""
    return [name for name in NETWORKS if weights_path(name).is_file()]


def recorded() -> dict[str, Any]:
    """The record, {"photographs": {size: scores}, "networks": {name: scores}}; empty parts where there is none."""
    path = repository_root() / RECORD
    record = read_record(path)
    return {"photographs": {}, "networks": {}} | record


def write(part: str, name: str, entry: dict[str, Any]) -> None:
    """Replace one entry of the record and keep the others; a reader sees the old record or the whole new one."""
    record = recorded()
    record[part][name] = entry
    write_record(repository_root() / RECORD, record)


def sampling_of(entry: dict[str, Any]) -> Sampling:
    """How the images of a record were sampled."""
    fields = entry["sampling"]
    return Sampling(**(fields | {"interval": tuple(fields["interval"])}))


# What is claimed


def check() -> list[Row]:
    """Rows for all four networks: recomputed from the shipped weights where that is possible, else from the record."""
    judge = _judge()
    photographs = [photograph_row(size, scores) for size, scores in recorded()["photographs"].items()]
    return [*photographs, *chain.from_iterable(_rows(name, judge) for name in NETWORKS)]


def _judge() -> Judge | None:
    """The judge, or None where its packages are absent."""
    from helpers.scoring.photographs import PhotographClassifier

    try:
        with redirect_stdout(io.StringIO()):  # its package prints a line
            return PhotographClassifier()
    except ImportError:
        return None


def _rows(name: str, judge: Judge | None) -> list[Row]:
    title = f"real animals, {NETWORKS[name].title}"
    path = weights_path(name)
    if not path.is_file():
        return [Row(f"{title}: shipped weights", "none yet", TRAINING_COMMANDS[name], False)]
    entry = recorded()["networks"].get(name)
    command = f"python -m benchmarks.tiny_sd.animals {name}"
    if entry is None:
        return [Row(f"{title}: scores", "never measured", command, False)]
    if entry["weights"] != read_metadata(name)["sha256"]:
        return [Row(f"{title}: scores", "measured with other weights", command, False)]
    size = at_most(f"{title}: weights", path.stat().st_size / 1e6, MOST_MEGABYTES, "MB")
    scores, source = _recomputed(name, entry, judge)
    claims = _claims(name, title, scores, source)
    reported = _reported(title, scores, source) + autoencoder_rows(title, entry)
    return [size, *claims, *reported, *_fid_rows(name, title, entry)]


def _recomputed(name: str, entry: dict[str, Any], judge: Judge | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Scores, and where each came from: "recomputed", or why it was read from the record."""
    from helpers.data.animal_faces import photographs_available

    if judge is None:
        return entry, dict.fromkeys(entry, "from the record: no judge here")
    model = TinySD.from_weights(name)
    photographs = None
    reason = "no photographs here"
    if photographs_available(model.size):
        photographs = load_photographs(model.size)
        if counts_of(photographs) != recorded()["photographs"].get(str(model.size), {}).get("counts"):
            photographs = None
            reason = "other photographs here"
    options = {"seed": entry["seed"], "per_class": entry["per_class"]}
    fresh, _ = evaluate(model, judge, photographs, sampling_of(entry), **options, progress=True)
    source = dict.fromkeys(entry, f"from the record: {reason}") | dict.fromkeys(fresh, "recomputed")
    return entry | fresh, source


def counts_of(photographs: Photographs) -> dict[str, dict[str, int]]:
    """How many photographs of each class there are."""
    return {"train": photographs.training.counts, "held out": photographs.held_out.counts}


def _claims(name: str, title: str, scores: dict[str, Any], source: dict[str, str]) -> list[Row]:
    """What has a bound."""
    network = NETWORKS[name]
    shares = {class_name: 100 * part["of three"] for class_name, part in scores["agreement"].items()}
    judged = f"{title}: judged as asked, {{}} ({{}} samples, {source['agreement']})"
    rows = [at_least(judged.format("overall", scores["n"]), shares.pop("overall"), network.overall, "%")]
    for class_name, share in shares.items():
        rows.append(at_least(judged.format(class_name, scores["per_class"]), share, network.each, "%"))
    kid = scores["kid"]
    value = f"{kid['value']:.3g} ± {kid['standard_error']:.2g}, n = {scores['n']} and {scores['held_out']}"
    rows.append(
        Row(
            f"{title}: KID to held-out photographs, judge's features ({source['kid']})",
            value,
            f"<= {network.kid:g}",
            kid["value"] <= network.kid,
        )
    )
    for channel, share in scores.get("colour_range", {}).items():
        rows.append(at_least(f"{title}: range of {channel}, of the photographs'", 100 * share, COLOUR_RANGE, "%"))
    rows.append(at_most(f"{title}: network evaluations for an image", scores["evaluations"], MOST_EVALUATIONS))
    return rows


def _reported(title: str, scores: dict[str, Any], source: dict[str, str]) -> list[Row]:
    """What has none."""
    near = scores["nearest_training"]
    sampling = sampling_of(scores)
    low, high = sampling.interval
    values = {
        f"precision, recall ({source['precision']})": f"{scores['precision']:.2f}, {scores['recall']:.2f}",
        f"distance to the nearest training photograph, over a held-out one's ({source['nearest_training']})": (
            f"{near['ratio']:.2f}; nearer than 99 % of those: {near['suspects']} of {scores['n']}"
        ),
        "guidance": f"scale {sampling.guidance_scale:g} for t in [{low:g}, {high:g}], {sampling.steps} steps",
        "trained": f"{scores['training']['core_minutes']:.0f} core minutes, {scores['training']['steps']} steps",
        f"images per second ({source['images_per_second']})": f"{scores['images_per_second']:.2g}",
    }
    return [Row(f"{title}: {what}", value, "printed", True) for what, value in values.items()]


def _fid_rows(name: str, title: str, entry: dict[str, Any]) -> list[Row]:
    """FID over the seeds, from the record: it takes hours."""
    fid = entry.get("fid")
    label = f"{title}: FID, 500 against 500 photographs of each class (from the record)"
    command = f"python -m benchmarks.tiny_sd.animals --fid {name}"
    if fid is None:
        return [Row(label, "never measured", command, False)]
    if len(fid["seeds"]) < animals_fid.SEEDS:
        rows = [Row(label, f"{len(fid['seeds'])} of {animals_fid.SEEDS} seeds", command, False)]
        rows.append(_fid_row(f"{label}, of these seeds", fid["seeds"], None))
    else:
        rows = [_fid_row(label, fid["seeds"], NETWORKS[name].fid)]
    perfect = fid["other_photographs"]["overall"]
    rows.append(Row(f"{title}: FID of other photographs by the same protocol", f"{perfect:.1f}", "printed", True))
    if fid["inverted"]:
        theirs = f"{animals_fid.COMPETITOR['overall']:.1f} (diffusion-pytorch)"
        negatives = [seed["inverted"] for seed in fid["seeds"]]
        rows.append(
            _fid_row(
                f"{title}: FID of colour negatives, as the competitor's script computes it",
                negatives,
                None,
                f"printed; theirs {theirs}",
            )
        )
    return rows


def _fid_row(label: str, seeds: list[dict[str, Any]], bound: float | None, expected: str = "printed") -> Row:
    parts = {name: animals_fid.mean_and_deviation(seeds, name) for name in animals_fid.COMPETITOR}
    mean, deviation = parts.pop("overall")
    classes = ", ".join(f"{name} {value:.1f}" for name, (value, _) in parts.items())
    error = f" ± {deviation:.1f}" if len(seeds) > 1 else ""
    value = f"{mean:.1f}{error} over {len(seeds)} seeds ({classes})"
    return Row(label, value, expected if bound is None else f"<= {bound:g}", bound is None or mean <= bound)


# What is measured


def measure(
    name: str, judge: Judge, photographs: Photographs, sampling: Sampling | None, command: str
) -> dict[str, Any]:
    """Score one network and write its entry; without a sampling, choose one first.

    The FID of the same weights and sampling stays in the record.
    """
    start = time.process_time()
    model = TinySD.from_weights(name)
    metadata = read_metadata(name)
    trials: list[Trial] = []
    if sampling is None:
        sampling, trials = choose_sampling(model, judge, photographs.training, progress=True)
    scores, _ = evaluate(model, judge, photographs, sampling, progress=True)
    entry = {
        "weights": metadata["sha256"],
        "size": model.size,
        "method": model.codec.name,
        "parameters": parameter_count(model.unet),
        "training": training_of(model, metadata),
        "measured_by": {
            "command": command,
            "date": date.today().isoformat(),
            "hardware": hardware(),
            "core_minutes": round((time.process_time() - start) / 60, 1),
        },
        "trials": [trial._asdict() | {"sampling": trial.sampling._asdict()} for trial in trials],
        **scores,
        **autoencoder_alone(model, judge, photographs),
    }
    earlier = recorded()["networks"].get(name, {})
    same = earlier.get("weights") == entry["weights"] and sampling_of(earlier) == sampling if earlier else False
    entry |= {key: value for key, value in earlier.items() if key == "fid"} if same else {}
    write("networks", name, entry)
    return entry


def training_of(model: TinySD, metadata: dict[str, str]) -> dict[str, Any]:
    """How the weights were trained; core minutes include encoding, and of Method 3 its autoencoder."""
    minutes = float(metadata["core_minutes"]) + float(metadata.get("encoding_core_minutes", 0))
    if model.codec.name == "own":
        source = vars(model.codec)["source"]  # the name or file of its autoencoder
        minutes += float(read_metadata(source)["core_minutes"])
    return {
        "command": metadata["command"],
        "seed": int(metadata["seed"]),
        "steps": int(metadata["steps"]),
        "core_minutes": round(minutes, 1),
        "precision": metadata.get("precision", "fp32"),
    }


def shown_network(autoencoder: str | None = None) -> tuple[TinySD, Sampling]:
    """The network for the figure, and how it samples; `autoencoder` takes the place of the one that ships.

    Raises:
        FileNotFoundError: where none of the networks is there; it says how to train one.
    """
    name = next((name for name in SHOWN if weights_path(name).is_file()), SHOWN[0])
    entry = recorded()["networks"].get(name)
    return TinySD.from_weights(name, autoencoder=autoencoder), sampling_of(entry) if entry else DEFAULT


def measured_entry(name: str) -> dict[str, Any]:
    """The record of a network's weights. Raises ValueError where they were not measured, or have changed since."""
    entry = recorded()["networks"].get(name)
    if entry is None or entry["weights"] != read_metadata(name)["sha256"]:
        raise ValueError(f"these weights of {name} were not measured yet: python -m benchmarks.tiny_sd.animals {name}")
    return entry


def measure_autoencoder(name: str, photographs: Photographs) -> dict[str, Any]:
    """Add the scores of a network's autoencoder to its record; raises as `measured_entry`."""
    from helpers.scoring.photographs import PhotographClassifier

    entry = measured_entry(name)
    alone = autoencoder_alone(TinySD.from_weights(name), PhotographClassifier(), photographs)
    write("networks", name, entry | alone)
    return alone


def measure_fid(name: str, photographs: Photographs) -> dict[str, Any]:
    """FID of a network that was measured before, with the sampling that was chosen then; written after every seed.

    Raises as `measured_entry`.
    """
    from helpers.scoring.inception import Inception

    entry = measured_entry(name)
    weights = entry["weights"]

    def save(fid: dict[str, Any]) -> None:
        write("networks", name, entry | {"fid": fid})

    model = TinySD.from_weights(name)
    return animals_fid.measure(model, weights, sampling_of(entry), photographs, Inception(), entry.get("fid"), save)


# The command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command_line = argparse.ArgumentParser(
        prog="python -m benchmarks.tiny_sd.animals", description=__doc__.splitlines()[0]
    )
    add = command_line.add_argument
    add("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}; none: all whose weights are there")
    add("--fid", action="store_true", help="measure FID, five seeds, instead of the other scores")
    add("--autoencoders", action="store_true", help="measure the autoencoders alone, and keep the other scores")
    add("--images", action="store_true", help=f"write {IMAGE} instead")
    add("--autoencoder", help="decode with this one, as for load_autoencoder, with --images")
    add("--guidance-scale", type=float, help="none: chosen from a short list, on other noise")
    add(
        "--interval",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("FROM", "TO"),
        help="times between which guidance is used, with --guidance-scale",
    )
    add("--steps", type=int, default=Sampling(1).steps, help="of the sampler, with --guidance-scale")
    return command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or write the figure; the exit status."""
    options = parser().parse_args(argv)
    if options.images:
        print(write_image(*shown_network(options.autoencoder)))
        return 0
    unknown = [name for name in options.names if name not in NETWORKS]
    names = options.names or shipped()
    if unknown or not names:
        what = f"unknown: {', '.join(unknown)}" if unknown else "no weights are there yet"
        print(f"{what}; the networks are {', '.join(NETWORKS)}", file=sys.stderr)
        return 2
    sampling = None
    if options.guidance_scale is not None:
        sampling = Sampling(options.guidance_scale, tuple(options.interval), options.steps)
    command = " ".join(["python -m benchmarks.tiny_sd.animals", *(sys.argv[1:] if argv is None else argv)])
    for name in names:
        photographs = load_photographs(TinySD.from_weights(name).size)
        if options.fid:
            scores = measure_fid(name, photographs)
        elif options.autoencoders:
            scores = measure_autoencoder(name, photographs)
        else:
            scores = _measured(name, photographs, sampling, command)
        print(json.dumps({name: scores}, indent=1), flush=True)
    return 0


def _measured(name: str, photographs: Photographs, sampling: Sampling | None, command: str) -> dict[str, Any]:
    """One network's scores, and those of the photographs themselves where the record lacks them."""
    from helpers.scoring.photographs import PhotographClassifier

    judge = PhotographClassifier()
    size = str(photographs.held_out.size)
    counts = counts_of(photographs)
    if recorded()["photographs"].get(size, {}).get("counts") != counts:
        write("photographs", size, {"counts": counts, **baseline(judge, photographs)})
    return measure(name, judge, photographs, sampling, command)


if __name__ == "__main__":
    sys.exit(main())
