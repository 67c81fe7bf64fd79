"""What a perfect generator of animals would score, and a perfect one in the latents of an autoencoder."""

from typing import Any

import torch

from benchmarks.report import Row
from benchmarks.tiny_sd.animals_scores import PER_CLASS, REPEATS, Judge, Photographs, balanced, judged
from helpers.scoring.frechet import kernel_distance
from helpers.scoring.precision_recall import precision_recall
from helpers.tiny_sd.codecs import Codec, PixelCodec
from helpers.tiny_sd.model import TinySD

DECODED_AT_ONCE = 50  # photographs


def baseline(
    judge: Judge, photographs: Photographs, per_class: int = PER_CLASS, codec: Codec | None = None
) -> dict[str, Any]:
    """The same scores for training photographs in place of generated images: what a perfect generator would reach.

    Their nearest training photographs are themselves, so nothing is said about those.

    Args:
        judge, photographs: as for `evaluate`.
        per_class: photographs of every class.
        codec: encodes the photographs and decodes them again, which no generator of its latents can improve on; None:
            the photographs as they are.
    """
    chosen = balanced(photographs.training, per_class)
    images = photographs.training.tensor(chosen)
    if codec is not None:
        images = torch.cat([codec.decode(codec.encode(part)).clamp(-1, 1) for part in images.split(DECODED_AT_ONCE)])
    probabilities, features = judge.predict(images)
    names = photographs.training.class_names
    labels = [names[photographs.training.labels[i]] for i in chosen]
    held_out = photographs.held_out.tensor(balanced(photographs.held_out, min(photographs.held_out.counts.values())))
    _, real = judge.predict(held_out)
    kid = kernel_distance(features, real, repeats=REPEATS)
    share = precision_recall(real, features)
    return {
        "n": len(chosen),
        "held_out": len(held_out),
        "agreement": judged(probabilities, labels, names),
        "kid": {"value": kid.value, "standard_error": kid.stderr},
        "precision": share.precision,
        "recall": share.recall,
    }


def autoencoder_alone(model: TinySD, judge: Judge, photographs: Photographs) -> dict[str, Any]:
    """The entry "autoencoder_alone": scores of photographs that are encoded and decoded. Empty in pixels."""
    if isinstance(model.codec, PixelCodec):
        return {}
    return {"autoencoder_alone": baseline(judge, photographs, codec=model.codec)}


def photograph_row(size: str, scores: dict[str, Any]) -> Row:
    """What a perfect generator would score: training photographs in place of generated images."""
    name = f"real animals, {scores['n']} photographs at {size} px (from the record): judged, KID, precision, recall"
    return Row(name, _baseline_text(scores), "printed", True)


def autoencoder_rows(title: str, entry: dict[str, Any]) -> list[Row]:
    """What is left of photographs when a network's autoencoder has encoded and decoded them."""
    if "autoencoder_alone" not in entry:
        return []
    name = f"{title}: its autoencoder alone, photographs encoded and decoded (from the record): judged, KID, ..."
    return [Row(name, _baseline_text(entry["autoencoder_alone"]), "printed", True)]


def _baseline_text(scores: dict[str, Any]) -> str:
    shares = {name: f"{100 * part['of three']:.0f}" for name, part in scores["agreement"].items()}
    overall = shares.pop("overall")
    classes = ", ".join(f"{name} {share}" for name, share in shares.items())
    kid = f"{scores['kid']['value']:.3g} ± {scores['kid']['standard_error']:.2g}"
    return f"{overall} % ({classes}), {kid}, {scores['precision']:.2f}, {scores['recall']:.2f}"
