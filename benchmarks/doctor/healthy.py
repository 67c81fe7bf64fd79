"""Thirty trainings that nothing is wrong with, of all methods, sources and options that differ in what they log."""

from __future__ import annotations

from functools import partial

from benchmarks.doctor.faults import write_faces
from benchmarks.doctor.trainings import LATENTS, USUAL, Training

OWN_LATENTS = f"{USUAL} --method own --autoencoder faces_autoencoder"
PIXELS = {
    "as usual": "",
    "another seed": "--seed 1",
    "a third seed": "--seed 2",
    "DDPM": "--objective epsilon",
    "DDPM, another seed": "--objective epsilon --seed 1",
    "shift 2": "--shift 2",
    "shift 3": "--shift 3",
    "a small learning rate": "--learning-rate 3e-4",
    "a large learning rate": "--learning-rate 4e-3",
    "Muon": "--optimizer muon --learning-rate 3e-3",
    "batches of 8": "--batch-size 8",
    "batches of 48": "--batch-size 48",
    "a short average": "--ema 0.9",
    "a long average": "--ema 0.9999",
    "dropout": "--dropout 0.2",
    "augmentation": "--augment 0.2",
    "a perceptual loss": "--perceptual 0.1 --perceptual-encoder general_autoencoder",
    "inverse square root": "--schedule inverse-sqrt",
    "wide": "--widths 64 96",
    "48 pixels": "--size 48",
    "500 images": "--limit 500",
}
LATENT = {"as usual": "", "another seed": "--seed 1", "DDPM": "--objective epsilon", "shift 2": "--shift 2"}
HEALTHY = (
    *(Training(f"pixels, {name}", f"{USUAL} {options}") for name, options in PIXELS.items()),
    *(Training(f"pretrained latents, {name}", f"{LATENTS} {options}") for name, options in LATENT.items()),
    *(Training(f"own latents, {name}", f"{OWN_LATENTS} {LATENT[name]}") for name in ("as usual", "DDPM")),
    Training("a folder of 400 images", USUAL, images=partial(write_faces, count=400)),
    Training("a folder of 150 images", USUAL, images=partial(write_faces, count=150)),
    Training(
        "fine-tuning on 60 images",
        "--start tiny_sd_animals_pixels --steps 1000 --log-every 10 --validate-every 50 --sample-every 0 "
        "--batch-size 8 --learning-rate 1e-5",
        images=partial(write_faces, count=60),
    ),
)
