"""The changes to a training recipe that `benchmarks.tiny_sd.recipes` tries, each beside the baseline of its method."""

from typing import Any, NamedTuple

SAMPLING = {"steps": 20, "guidance_scale": 3.0}  # guided, 40 evaluations of the network; peers use 50


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
    Change(name, text, sampling=sampling, trained=False)
    for name, text, sampling in (
        ("guidance-1.5", "guidance 1.5 instead of 3", {"guidance_scale": 1.5}),
        ("guidance-2", "guidance 2", {"guidance_scale": 2.0}),
        ("guidance-5", "guidance 5", {"guidance_scale": 5.0}),
        ("interval", "guidance 3 between t = 0.2 and 0.8 only", {"guidance_interval": (0.2, 0.8)}),
        (
            "interval-5",
            "guidance 5 between t = 0.2 and 0.8 only",
            {"guidance_scale": 5.0, "guidance_interval": (0.2, 0.8)},
        ),
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
        Change("shift-2", "noise levels shifted by 2, towards more noise", "--shift 2"),
        *AVERAGES,
        *GUIDANCE,
        Change("recipe", "the recipe: all changes that were kept"),
    ),
    "pixels": (
        Change("baseline", "baseline: widths 64, 128 and 192, patch 4, batch 32, AdamW 0.001, EMA 0.999"),
        Change("narrower", "narrower: widths 48, 96 and 128", "--widths 48 96 128"),
        Change("wider", "wider: widths 96, 192 and 256", "--widths 96 192 256"),
        Change("patch-2", "patches of 2 × 2 pixels instead of 4 × 4", "--patch 2"),
        Change("patch-8", "patches of 8 × 8 pixels, widths 128 and 192", "--patch 8 --widths 128 192"),
        Change("shift-2", "noise levels shifted by 2", "--shift 2"),
        Change("shift-3", "noise levels shifted by 3, towards more noise", "--shift 3"),
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
    by_name = {change.name: change for change in CHANGES[method]}
    if method in RECIPES:
        recipe = RECIPES[method]
        by_name["recipe"] = recipe._replace(text=by_name["recipe"].text)
    return by_name


def method_of(method: str, change: Change) -> str:
    """What the record calls the method."""
    return f"peer {PEERS[change.name.split('-')[0]]}" if method == "peers" else method
