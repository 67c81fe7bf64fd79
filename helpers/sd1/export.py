"""Our Stable Diffusion 1 as a folder that diffusers' `StableDiffusionPipeline` loads."""

from pathlib import Path

from helpers.autoencoders import export as autoencoder_export
from helpers.sd1.checkpoint import unet_names
from helpers.sd1.pipeline import StableDiffusion1
from helpers.sd1.schedule import PREDICTION_TYPES
from helpers.sd1.unet import UNet
from helpers.text.export import write_clip, write_clip_tokenizer
from helpers.weights.export import DIFFUSERS_WEIGHTS, published_tensors, write_json, write_part

DIFFUSERS_PREDICTION_TYPES = {ours: theirs for theirs, ours in PREDICTION_TYPES.items()}


def to_diffusers(model: StableDiffusion1, folder: str | Path) -> None:
    """Write a folder for `StableDiffusionPipeline.from_pretrained(folder)`, which generates the same images.

    Args:
        folder: is created; files of an earlier export are overwritten.

    Raises:
        ValueError: for an autoencoder that diffusers has not: see `helpers.autoencoders.export`.
    """
    folder = Path(folder)
    config = model.config
    autoencoder_export.to_diffusers(model.autoencoder, folder / "vae", config.size)
    write_clip(model.text, model.tokenizer, folder / "text_encoder", projection=False)
    write_clip_tokenizer(model.tokenizer, folder / "tokenizer")
    _write_unet(model.unet, config.size // config.autoencoder.downsampling_factor, folder / "unet")
    scheduler = model.schedule.to_config() | {"prediction_type": DIFFUSERS_PREDICTION_TYPES[model.prediction]}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }
    write_json(folder / "model_index.json", index)


def _write_unet(unet: UNet, sample_size: int, folder: Path) -> None:
    config = unet.config
    down = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in config.attention]
    values = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "block_out_channels": [config.width * m for m in config.multipliers],
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "layers_per_block": config.blocks,
        "attention_head_dim": config.heads,  # diffusers' old name for the number of heads
        "cross_attention_dim": config.text_width,
        "norm_num_groups": config.groups,
        "use_linear_projection": True,  # the published 1x1 convolutions are linear layers here
    }
    tensors = published_tensors(unet, unet_names(config, "diffusers"))
    write_part(folder, values, tensors, DIFFUSERS_WEIGHTS)
