"""What config.json says of a published autoencoder, in the course's terms."""

from dataclasses import replace

from helpers.autoencoders.kl import KLConfig
from helpers.autoencoders.tiny import TinyConfig
from helpers.weights.configs import PublishedConfig

KL_ENTRIES = {  # what the course's KL autoencoder computes and no tensor shows
    "act_fn": ("silu", "swish"),
    "latents_mean": None,
    "latents_std": None,
}
TINY_ENTRIES = {
    "act_fn": "relu",
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "scaling_factor": (1.0, None),
    "shift_factor": (0.0, None),
}


def follow_kl_config(sizes: KLConfig, published: PublishedConfig) -> KLConfig:
    """The sizes with the scale, the shift and the groups of a config.json, which no tensor shows.

    Raises:
        ValueError: for an entry that the course does not follow, such as a mean and standard deviation per channel.
    """
    published.require(KL_ENTRIES)
    return replace(
        sizes,
        groups=published.heads("norm_num_groups", sizes.groups, sizes.width),
        scale=published.number("scaling_factor", sizes.scale, low=0),
        shift=published.number("shift_factor", sizes.shift if "shift_factor" not in published.entries else 0.0),
    )


def kl_config(published: PublishedConfig) -> KLConfig:
    """All sizes of an AutoencoderKL from its config.json. Raises KeyError for an absent one, ValueError."""
    entries = published.entries
    widths = entries["block_out_channels"]
    sizes = KLConfig(
        width=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=entries["layers_per_block"],
        latent_channels=entries["latent_channels"],
        quant_convs=entries.get("use_quant_conv", True),
    )
    return follow_kl_config(sizes, published)


def tiny_config(published: PublishedConfig) -> TinyConfig:
    """All sizes of an AutoencoderTiny from its config.json. Raises KeyError for an absent one, ValueError."""
    published.require(TINY_ENTRIES)
    entries = published.entries
    return TinyConfig(
        latent_channels=entries["latent_channels"],
        width=entries["encoder_block_out_channels"][0],
        blocks=tuple(entries["num_encoder_blocks"]),
    )
