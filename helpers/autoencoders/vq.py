"""The quantised autoencoder of latent diffusion: the KL autoencoder's encoder and decoder around a codebook.

As published (Esser et al. 2020; Rombach et al. 2022, appendix G) with Stable Diffusion's blocks. Alphabet: B batch,
H W of the image, C latent channels, D width of a code, K codes, h = H / factor, w = W / factor,
N images.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.autoencoders.interface import Autoencoder
from helpers.autoencoders.kl import Decoder, Encoder, KLConfig, check_divisible
from helpers.autoencoders.quantizers import EMAQuantizer, Quantized, Usage, VectorQuantizer, usage
from helpers.weights import load_config, load_weights, save_with_config
from helpers.weights.pretrained import KeyMapping


@dataclass(frozen=True)
class VQConfig:
    """Sizes; the defaults are those of latent diffusion's vq-f4."""

    width: int = 128  # channels at full resolution
    multipliers: tuple[int, ...] = (1, 2, 4)  # of the width, per level; every level but the last halves the image
    blocks: int = 2  # residual blocks per level on the way down, one more on the way up
    latent_channels: int = 3  # of the encoder's output and the decoder's input, before and after the codebook
    groups: int = 32
    patch: int = 1  # as in KLConfig
    K: int = 8192  # codebook size
    code_width: int = 3  # dimensions of a code: with many of them, many codes are never the nearest
    ema: bool = False  # EMA codebook updates and dead-code resets (`EMAQuantizer`) instead of gradients
    scale: float = 1.0  # what is diffused is multiplied by it, as in KLConfig

    def __post_init__(self):
        if self.K < 1:
            raise ValueError(f"a codebook has at least one code, got K = {self.K}")

    def kl_config(self) -> KLConfig:
        """The sizes of encoder and decoder."""
        return KLConfig(self.width, self.multipliers, self.blocks, self.latent_channels, self.groups, patch=self.patch)

    @property
    def downsampling_factor(self) -> int:
        """How many times smaller the code map is than the image, per side."""
        return self.kl_config().downsampling_factor


class VQAutoencoder(Autoencoder):
    """Encodes images as maps of codebook indices and decodes them."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config = config
        kl_config = config.kl_config()
        self.encoder = Encoder(kl_config, outputs=config.latent_channels)
        self.decoder = Decoder(kl_config)
        self.quant = nn.Conv2d(config.latent_channels, config.code_width, 1)
        self.post_quant = nn.Conv2d(config.code_width, config.latent_channels, 1)
        self.quantizer: EMAQuantizer | VectorQuantizer
        if config.ema:
            self.quantizer = EMAQuantizer(config.K, config.code_width)
        else:
            self.quantizer = VectorQuantizer(config.K, config.code_width)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, D, h, w) before it is quantised: what latent diffusion diffuses.

        Raises:
            ValueError: for sides that are not multiples of the factor.
        """
        check_divisible(images, self.config.downsampling_factor)
        return self.quant(self.encoder(images))

    def quantize(self, z: Tensor) -> Quantized:
        """(B, D, h, w) -> nearest codes z_q (B, D, h, w), their indices (B, h, w) and losses (B, h, w)."""
        quantized = self.quantizer(z.permute(0, 2, 3, 1))
        return quantized._replace(z_q=quantized.z_q.permute(0, 3, 1, 2))

    def decode(self, z: Tensor) -> Tensor:
        """(B, D, h, w), quantised or not -> (B, 3, H, W): the quantiser is part of the decoder."""
        return self.decode_codes(self.quantize(z).z_q)

    def decode_indices(self, indices: Tensor) -> Tensor:
        """(B, h, w) -> (B, 3, H, W)."""
        return self.decode_codes(self.quantizer.decode(indices).permute(0, 3, 1, 2))

    def decode_codes(self, z_q: Tensor) -> Tensor:
        """Quantised vectors (B, D, h, w) -> (B, 3, H, W), about [-1, 1]."""
        return self.decoder(self.post_quant(z_q))

    def forward(self, images: Tensor) -> tuple[Tensor, Quantized]:
        """(B, 3, H, W) in [-1, 1] -> reconstructions of the same shape, and the quantiser's output."""
        quantized = self.quantize(self.encode(images))
        return self.decode_codes(quantized.z_q), quantized

    def to_latents(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What is diffused, (B, D, h, w): the encoder's output before quantisation, scaled; it is deterministic."""
        return self.encode(images) * self.config.scale

    def to_images(self, latents: Tensor) -> Tensor:
        """Quantise latents / scale and decode: (B, D, h, w) -> (B, 3, H, W), clipped to [-1, 1]."""
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
def reconstruct(autoencoder: VQAutoencoder, images: Tensor, batch_size: int = 50) -> tuple[Tensor, Tensor, Usage]:
    """Encode and decode many images, in batches on the autoencoder's device.

    Returns:
        Reconstructions (N, 3, H, W) in [-1, 1] and codebook indices (N, h, w), both on the CPU, and the codebook usage.
    """
    device = next(autoencoder.parameters()).device
    reconstructions = []
    indices = []
    for batch in images.split(batch_size):
        reconstruction, quantized = autoencoder(batch.to(device))
        reconstructions.append(reconstruction.clamp(-1, 1).cpu())
        indices.append(quantized.indices.cpu())
    all_indices = torch.cat(indices)
    return torch.cat(reconstructions), all_indices, usage(all_indices, autoencoder.config.K)


def codes_to_rgb(autoencoder: VQAutoencoder, maps: Tensor) -> Tensor:
    """Show maps of indices (N, h, w) as images (N, 3, H, W) in [-1, 1]; similar codes get similar colours.

    Red, green and blue are the first three principal components of the codebook.
    """
    codebook = autoencoder.quantizer.codebook.detach()
    centred = codebook - codebook.mean(0)
    components = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:3].T  # (K, 3)
    colours = (components / (2 * components.std(0))).clamp(-1, 1)
    return F.interpolate(colours[maps].permute(0, 3, 1, 2), scale_factor=autoencoder.config.downsampling_factor)


CODEBOOK: KeyMapping = [(r"^quantizer\.codebook$", "quantize.embedding.weight")]  # in both published layouts
