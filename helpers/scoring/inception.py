"""FID, the published one: the Frechet distance of Inception's features, by torchmetrics, where its weights are at hand.

    pip install torch-fidelity==0.4.0     # Inception's layers; its weights are a file of their own

That package is in none of the course's extras: it brings a package called `tests`, which would hide the course's own.
INCEPTION_WEIGHTS names the weights (pt_inception-2015-12-05-6726825d.pth, of torch-fidelity's releases);
otherwise they are looked for where torch-fidelity keeps them. Nothing is downloaded. Distances of other features, those
of `helpers.scoring.frechet`, are no FID, and are never called one.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

FILE = "pt_inception-2015-12-05-6726825d.pth"
CHUNK = 50  # pictures read at once


def inception_weights() -> Path | None:
    """Where the weights lie, or None.

    Raises:
        FileNotFoundError: if INCEPTION_WEIGHTS names a file that is not there.
    """
    if named := os.environ.get("INCEPTION_WEIGHTS"):
        if not Path(named).expanduser().is_file():
            raise FileNotFoundError(f"INCEPTION_WEIGHTS names {named}, which is no file: it should be {FILE}")
        return Path(named).expanduser()
    kept = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    return kept if kept.is_file() else None


@torch.no_grad()
def fid(generated: Tensor, photographs: Tensor, network: nn.Module | None = None) -> float:
    """Frechet Inception distance (Heusel et al. 2017, eq. 6), over features of 2,048 numbers.

    With fewer pictures than features it is largely bias: compare sets of one size only.

    Args:
        generated, photographs: (N, 3, H, W) in [-1, 1], two or more each; they are resized to 299x299.
        network: for tests, uint8 (B, 3, H, W) to features (B, D), in place of Inception.

    Raises:
        FileNotFoundError: without the weights. ImportError: without torch-fidelity.
        ValueError: for fewer than two pictures.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(len(generated), len(photographs)) < 2:
        raise ValueError(f"FID needs two pictures or more of each, got {len(generated)} and {len(photographs)}")
    if network is None:
        weights = inception_weights()
        if weights is None:
            raise FileNotFoundError(f"Inception's weights are not at hand: INCEPTION_WEIGHTS should name {FILE}, of "
                                    "github.com/toshas/torch-fidelity/releases")  # fmt: skip
        metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(weights))
    else:
        metric = FrechetInceptionDistance(network, input_img_size=tuple(generated.shape[1:]))
    for pictures, real in ((photographs, True), (generated, False)):
        for part in pictures.split(CHUNK):
            metric.update(((part.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8), real=real)
    return metric.set_dtype(torch.float64).compute().item()
