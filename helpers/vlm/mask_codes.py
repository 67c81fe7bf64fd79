"""The VQ-VAE behind the `<seg>` tokens: a mask of 64x64 pixels as 4x4 indices into a codebook of 128 (see notebook 08).

The decoder has the structure of PaliGemma's published one (`vae-oid.npz`), so that it can load those weights.
Alphabet: B batch, K codebook size, D code width.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from helpers.autoencoders.quantizers import EMAQuantizer
from helpers.weights import load_config, load_weights, save_with_config
from helpers.weights.pretrained import check_zip

SIDE = 64  # pixels of a mask


@dataclass(frozen=True)
class MaskConfig:
    """Sizes; the defaults are the published ones."""

    K: int = 128
    code_width: int = 512
    width: int = 128
    clips: bool = False  # the published decoder outputs -1 (outside) to 1 (inside); ours outputs log-odds

    @classmethod
    def tiny(cls) -> "MaskConfig":
        """For the masks of synthetic faces."""
        return cls(code_width=16, width=32)


class Residual(nn.Module):
    """Residual block: x + conv3x3, conv3x3, conv1x1."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same shape."""
        return x + self.net(x)


class MaskAutoencoder(nn.Module):
    """VQ-VAE of masks: 64x64 pixels to sixteen codebook indices and back (van den Oord et al. 2017)."""

    def __init__(self, config: MaskConfig):
        super().__init__()
        self.config = config
        w = config.width
        down: list[nn.Module] = []  # from 64x64 down to 4x4
        for a, b in pairwise([1, w // 4, w // 2, w, w]):
            down += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*down, Residual(w), Residual(w), nn.Conv2d(w, config.code_width, 1))
        up: list[nn.Module] = []  # from 4x4 up to 64x64
        for a, b in pairwise([w, w, w // 2, w // 4, w // 8]):
            up += [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), nn.ReLU()]
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_width, w, 1), nn.ReLU(), Residual(w), Residual(w), *up, nn.Conv2d(w // 8, 1, 1)
        )
        self.quantizer = EMAQuantizer(config.K, config.code_width)

    def encode(self, masks: Tensor) -> Tensor:
        """Encode masks (B, 64, 64) in [0, 1] as codebook indices, int64 (B, 16), row by row.

        Raises:
            ValueError: for masks of another size.
        """
        if masks.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"masks are (B, {SIDE}, {SIDE}), got {tuple(masks.shape)}")
        return self.quantizer(self._encode_vectors(masks)).indices.flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codebook indices int64 (B, 16) to the probability of each pixel to be inside, (B, 64, 64)."""
        output = self._decode_vectors(self.quantizer.decode(codes.unflatten(1, (4, 4))))  # (B, 64, 64)
        return (output / 2 + 0.5).clamp(0, 1) if self.config.clips else output.sigmoid()

    def forward(self, masks: Tensor) -> Tensor:
        """Training losses (B,) of masks (B, 64, 64) in [0, 1]: cross-entropy per pixel plus the quantizer's loss."""
        quantized = self.quantizer(self._encode_vectors(masks))
        logits = self._decode_vectors(quantized.z_q)
        error = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        return error.flatten(1).mean(1) + quantized.loss.flatten(1).mean(1)

    def _encode_vectors(self, masks: Tensor) -> Tensor:
        return rearrange(self.encoder(2 * masks[:, None] - 1), "b d h w -> b h w d")  # (B, 4, 4, D)

    def _decode_vectors(self, vectors: Tensor) -> Tensor:
        return self.decoder(rearrange(vectors, "b h w d -> b d h w"))[:, 0]  # (B, 64, 64)

    def save(self, path: str | Path, metadata: dict[str, str]) -> None:
        """Write the weights (fp16) with their config."""
        save_with_config(self, asdict(self.config), path, metadata)

    @classmethod
    def from_weights(cls, name_or_path: str | Path = "masks") -> "MaskAutoencoder":
        """Load weights that `save` wrote. Raises what `load_weights` and `read_config` raise."""
        model = cls(load_config(MaskConfig, name_or_path))
        load_weights(model, name_or_path)
        return model.eval()

    @classmethod
    def from_published(cls, path: str | Path) -> "MaskAutoencoder":
        """Load PaliGemma's own decoder and codebook (`gs://big_vision/paligemma/vae-oid.npz`), without its encoder.

        Raises:
            FileNotFoundError, ValueError: where there is no file, or it is not this one.
        """
        tensors = _read_npz(Path(path))
        model = cls(MaskConfig(clips=True))
        decoder = {f"decoder.{name}": tensor for name, tensor in model.decoder.state_dict().items()}
        expected = {**decoder, "_vq_vae._embedding": model.quantizer.codebook}
        mismatched = [
            name for name, tensor in expected.items() if name not in tensors or tensors[name].shape != tensor.shape
        ]
        if mismatched:
            raise ValueError(
                f"{path} is not PaliGemma's mask decoder: missing or of another shape are {mismatched[:4]}"
            )
        model.decoder.load_state_dict({name.removeprefix("decoder."): tensors[name] for name in decoder})
        model.quantizer.codebook.copy_(tensors["_vq_vae._embedding"])
        return model.eval()


def _read_npz(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no mask decoder at {path}: download gs://big_vision/paligemma/vae-oid.npz")
    check_zip(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    except MemoryError:
        raise
    except Exception as error:  # NumPy raises nearly anything for a damaged file
        raise ValueError(f"{path} is not an .npz file of plain arrays: {error}") from error
