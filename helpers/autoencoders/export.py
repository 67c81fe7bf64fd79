"""Our KL autoencoder as a folder that diffusers' `AutoencoderKL` loads."""

from pathlib import Path

from helpers.autoencoders.kl import KLAutoencoder, published_names
from helpers.weights.export import DIFFUSERS_WEIGHTS, published_tensors, write_part


def to_diffusers(autoencoder: KLAutoencoder, folder: str | Path, size: int = 512) -> None:
    """Write `config.json` and weights for `diffusers.AutoencoderKL.from_pretrained(folder)`.

    Args:
        size: pixels a side of the images that it was trained on; tiling follows from it.

    Raises:
        ValueError: for an autoencoder that rearranges patches into channels first, which diffusers has not.
    """
    config = autoencoder.config
    if config.patch > 1:
        raise ValueError(
            f"diffusers has no autoencoder that starts with patches of {config.patch}x{config.patch} pixels: "
            "only one with patch=1 can be exported"
        )
    levels = len(config.multipliers)
    values = {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": [config.width * m for m in config.multipliers],
        "layers_per_block": config.blocks,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.groups,
        "scaling_factor": config.scale,
        "shift_factor": config.shift,
        "use_quant_conv": config.quant_convs,
        "use_post_quant_conv": config.quant_convs,
        "sample_size": size,
    }
    tensors = published_tensors(autoencoder, published_names(config, "diffusers"))
    write_part(Path(folder), values, tensors, DIFFUSERS_WEIGHTS)
