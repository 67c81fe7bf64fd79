"""The small VQ-VAE behind `<seg>`: a mask of 64x64 pixels as 4x4 codes of 128 (notebook 06, in miniature).

The decoder is laid out as PaliGemma's published one (`vae-oid.npz`), so that it can read those weights. Alphabet: B
batch, K codes, D width of a code.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
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
    clips: bool = False  # the published decoder draws from -1, outside, to 1; ours gives log-odds

    @classmethod
    def tiny(cls) -> "MaskConfig":
        """For the outlines of drawn faces."""
        return cls(code_width=16, width=32)


class Residual(nn.Module):
    """x and what three convolutions add to it."""

    def __init__(self, width: int):
        super().__init__()
        three = (nn.Conv2d(width, width, size, padding=size // 2) for size in (3, 3, 1))
        self.net = nn.Sequential(next(three), nn.ReLU(), next(three), nn.ReLU(), next(three))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class MaskAutoencoder(nn.Module):
    """A mask to sixteen codes and back (van den Oord et al. 2017)."""

    def __init__(self, config: MaskConfig):
        super().__init__()
        self.config = config
        w = config.width
        narrow = [w, w, w // 2, w // 4, w // 8]  # the decoder's channels, from 4x4 up to 64x64
        wide = [1, w // 4, w // 2, w, w]  # the encoder's, from 64x64 down to 4x4
        down = [
            layer
            for a, b in zip(wide, wide[1:], strict=False)
            for layer in (nn.Conv2d(a, b, 4, stride=2, padding=1), nn.ReLU())
        ]
        self.encoder = nn.Sequential(*down, Residual(w), Residual(w), nn.Conv2d(w, config.code_width, 1))
        up = [
            layer
            for a, b in zip(narrow, narrow[1:], strict=False)
            for layer in (nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), nn.ReLU())
        ]
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_width, w, 1), nn.ReLU(), Residual(w), Residual(w), *up, nn.Conv2d(narrow[-1], 1, 1)
        )
        self.quantizer = EMAQuantizer(config.K, config.code_width)

    def encode(self, masks: Tensor) -> Tensor:
        """(B, 64, 64) in [0, 1] -> codes int64 (B, 16), row by row.

        Raises:
            ValueError: for masks of another size.
        """
        if masks.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"masks are (B, {SIDE}, {SIDE}), got {tuple(masks.shape)}")
        return self.quantizer(self._vectors(masks)).indices.flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """int64 (B, 16) -> (B, 64, 64), how likely each pixel belongs to the object."""
        drawn = self._logits(self.quantizer.decode(codes.unflatten(1, (4, 4))))  # (B, 64, 64)
        return (drawn / 2 + 0.5).clamp(0, 1) if self.config.clips else drawn.sigmoid()

    def forward(self, masks: Tensor) -> Tensor:
        """(B, 64, 64) in [0, 1] -> (B,) losses: what a training calls."""
        quantized = self.quantizer(self._vectors(masks))
        error = F.binary_cross_entropy_with_logits(self._logits(quantized.codes), masks, reduction="none")
        return error.flatten(1).mean(1) + quantized.loss.flatten(1).mean(1)

    def _vectors(self, masks: Tensor) -> Tensor:
        return self.encoder(2 * masks[:, None] - 1).permute(0, 2, 3, 1)  # (B, 4, 4, D)

    def _logits(self, vectors: Tensor) -> Tensor:
        return self.decoder(vectors.permute(0, 3, 1, 2))[:, 0]

    def save(self, path: str | Path, metadata: dict[str, str]) -> None:
        """Write the weights (fp16) with their sizes."""
        save_with_config(self, asdict(self.config), path, metadata)

    @classmethod
    def from_weights(cls, name_or_path: str | Path = "masks") -> "MaskAutoencoder":
        """Weights that `save` wrote. Raises what `load_weights` and `read_config` raise."""
        model = cls(load_config(MaskConfig, name_or_path))
        load_weights(model, name_or_path)
        return model.eval()

    @classmethod
    def from_published(cls, path: str | Path) -> "MaskAutoencoder":
        """PaliGemma's own decoder and codes (`gs://big_vision/paligemma/vae-oid.npz`); its encoder is not read here.

        Raises:
            FileNotFoundError, ValueError: where it is not there, or not this file.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no mask decoder at {path}: it is gs://big_vision/paligemma/vae-oid.npz")
        check_zip(Path(path))
        try:
            with np.load(path, allow_pickle=False) as file:
                read = {name: torch.from_numpy(file[name]) for name in file.files}
        except MemoryError:
            raise
        except Exception as error:  # of a spoilt file NumPy raises nearly anything
            raise ValueError(f"{path} is no .npz file of plain arrays: {error}") from error
        model = cls(MaskConfig(clips=True))
        ours = {f"decoder.{name}": tensor for name, tensor in model.decoder.state_dict().items()}
        wanted = {**ours, "_vq_vae._embedding": model.quantizer.codebook}
        faults = [name for name, tensor in wanted.items() if name not in read or read[name].shape != tensor.shape]
        if faults:
            raise ValueError(f"{path} is not PaliGemma's mask decoder: missing or of another shape are {faults[:4]}")
        model.decoder.load_state_dict({name.removeprefix("decoder."): read[name] for name in ours})
        model.quantizer.codebook.copy_(read["_vq_vae._embedding"])
        return model.eval()
