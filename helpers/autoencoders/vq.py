"""The quantised autoencoder of latent diffusion: the KL autoencoder's halves, with a codebook between them.

As published (Esser et al. 2020; Rombach et al. 2022, appendix G) with Stable Diffusion's blocks. Alphabet: B batch,
H W of the picture, C latent channels, D width of a code, K codes, h = H / factor, w = W / factor,
N pictures.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.autoencoders.kl import Decoder, Encoder, KLConfig, check_divisible
from helpers.autoencoders.quantizers import EMAQuantizer, Quantized, Usage, VectorQuantizer, usage
from helpers.weights import load_config, load_weights, save_with_config
from helpers.weights.pretrained import KeyMapping


@dataclass(frozen=True)
class VQConfig:
    """Sizes; the defaults are those of latent diffusion's vq-f4."""

    width: int = 128  # channels at full resolution
    multipliers: tuple[int, ...] = (1, 2, 4)  # of the width, per level; every level but the last halves the picture
    blocks: int = 2  # residual blocks per level on the way down, one more on the way up
    latent_channels: int = 3  # between the halves and the codebook
    groups: int = 32
    patch: int = 1  # as in KLConfig
    K: int = 8192  # codes
    code_width: int = 3  # numbers of a code: few, or many codes are never the nearest
    ema: bool = False  # codes follow the means of what they are chosen for, and are revived
    scale: float = 1.0  # what is diffused is multiplied by it, as in KLConfig

    def __post_init__(self):
        if self.K < 1:
            raise ValueError(f"a codebook has a code or more, got K = {self.K}")

    def kl_config(self) -> KLConfig:
        """The sizes of encoder and decoder."""
        return KLConfig(self.width, self.multipliers, self.blocks, self.latent_channels, self.groups, patch=self.patch)

    @property
    def downsampling_factor(self) -> int:
        """How many times smaller the code map is than the picture, per side."""
        return self.kl_config().downsampling_factor


class VQAutoencoder(nn.Module):
    """Picture to a map of codes and back."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config = config
        kl_config = config.kl_config()
        self.encoder = Encoder(kl_config, outputs=config.latent_channels)
        self.decoder = Decoder(kl_config)
        self.quant = nn.Conv2d(config.latent_channels, config.code_width, 1)
        self.post_quant = nn.Conv2d(config.code_width, config.latent_channels, 1)
        self.quantizer = (EMAQuantizer if config.ema else VectorQuantizer)(config.K, config.code_width)

    def encode(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, D, h, w) before it is quantised: what latent diffusion diffuses.

        Raises:
            ValueError: for sides that are not multiples of the factor.
        """
        check_divisible(pictures, self.config.downsampling_factor)
        return self.quant(self.encoder(pictures))

    def quantize(self, z: Tensor) -> Quantized:
        """(B, D, h, w) -> codes (B, D, h, w), indices and losses (B, h, w)."""
        found = self.quantizer(z.permute(0, 2, 3, 1))
        return found._replace(codes=found.codes.permute(0, 3, 1, 2))

    def decode(self, z: Tensor) -> Tensor:
        """(B, D, h, w), quantised or not -> (B, 3, H, W): the quantiser is part of the decoder."""
        return self.decode_codes(self.quantize(z).codes)

    def decode_indices(self, indices: Tensor) -> Tensor:
        """(B, h, w) -> (B, 3, H, W)."""
        return self.decode_codes(self.quantizer.decode(indices).permute(0, 3, 1, 2))

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Codes (B, D, h, w) -> (B, 3, H, W), about [-1, 1]."""
        return self.decoder(self.post_quant(codes))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Quantized]:
        """The pictures again, and what the quantiser said."""
        quantized = self.quantize(self.encode(pictures))
        return self.decode_codes(quantized.codes), quantized

    def to_latents(self, pictures: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What is diffused, (B, D, h, w): the vectors before they are quantised, scaled; nothing in them is random."""
        return self.encode(pictures) * self.config.scale

    def to_pictures(self, latents: Tensor) -> Tensor:
        """Back: quantise latents / scale, decode, clip to [-1, 1]."""
        return self.decode(latents / self.config.scale).clamp(-1, 1)

    def save(self, path: str | Path, metadata: dict[str, str]) -> None:
        """Write the weights (fp16) with their sizes."""
        save_with_config(self, asdict(self.config), path, metadata)

    @classmethod
    def from_weights(cls, name_or_path: str | Path) -> "VQAutoencoder":
        """Weights that `save` wrote. Raises what `load_weights` and `read_config` raise."""
        model = cls(load_config(VQConfig, name_or_path))
        load_weights(model, name_or_path)
        return model.eval()


@torch.no_grad()
def reconstruct(autoencoder: VQAutoencoder, pictures: Tensor, batch_size: int = 50) -> tuple[Tensor, Tensor, Usage]:
    """Pictures again (N, 3, H, W) in [-1, 1], their codes' indices (N, h, w), and how much of the codebook they use."""
    device = next(autoencoder.parameters()).device
    found = []
    for batch in pictures.split(batch_size):
        again, quantized = autoencoder(batch.to(device))
        found.append((again.clamp(-1, 1).cpu(), quantized.indices.cpu()))
    again, indices = map(torch.cat, zip(*found, strict=True))
    return again, indices, usage(indices, autoencoder.config.K)


def codes_to_rgb(autoencoder: VQAutoencoder, maps: Tensor) -> Tensor:
    """Maps of codes (N, h, w) as pictures (N, 3, H, W) in [-1, 1]: alike codes have alike colours.

    The three directions in which the codebook's vectors vary most are red, green and blue.
    """
    book = autoencoder.quantizer.codebook.detach()
    centred = book - book.mean(0)
    along = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:3].T  # (K, 3)
    colours = (along / (2 * along.std(0))).clamp(-1, 1)
    return F.interpolate(colours[maps].permute(0, 3, 1, 2), scale_factor=autoencoder.config.downsampling_factor)


CODEBOOK: KeyMapping = [(r"^quantizer\.codebook$", "quantize.embedding.weight")]  # in both published layouts
