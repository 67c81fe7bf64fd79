"""Our Stable Diffusion 3 as a folder that diffusers' `StableDiffusion3Pipeline` loads."""

from pathlib import Path

from helpers.autoencoders import export as autoencoder_export
from helpers.sd3.checkpoint import shift_first, transformer_names
from helpers.sd3.encoders import TextEncoders
from helpers.sd3.mmdit import MMDiT, positions
from helpers.sd3.pipeline import StableDiffusion3
from helpers.text.export import write_clip, write_clip_tokenizer, write_t5, write_t5_tokenizer
from helpers.weights.export import DIFFUSERS_WEIGHTS, published_tensors, write_json, write_part


def to_diffusers(model: StableDiffusion3, folder: str | Path) -> None:
    """Write a folder for `StableDiffusion3Pipeline.from_pretrained(folder)`, which generates the same images.

    Where the model has no T5, pass `text_encoder_3=None, tokenizer_3=None` to diffusers as well.

    Args:
        folder: is created; files of an earlier export are overwritten.

    Raises:
        ValueError: for an autoencoder that diffusers has not: see `helpers.autoencoders.export`.
    """
    folder = Path(folder)
    autoencoder_export.to_diffusers(model.autoencoder, folder / "vae", model.config.size)
    _write_transformer(model.transformer, folder / "transformer")
    _write_encoders(model.encoders, folder)
    scheduler = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": model.config.shift,
    }
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    with_t5 = model.encoders.t5 is not None
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"] if with_t5 else [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": ["transformers", "PreTrainedTokenizerFast"] if with_t5 else [None, None],
        "image_encoder": [None, None],
        "feature_extractor": [None, None],
    }
    write_json(folder / "model_index.json", index)


def _write_transformer(transformer: MMDiT, folder: Path) -> None:
    config = transformer.config
    values = {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": config.pos_embed_base_size * config.patch,
        "patch_size": config.patch,
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "num_layers": config.layers,
        "attention_head_dim": config.width // config.heads,
        "num_attention_heads": config.heads,
        "joint_attention_dim": config.text_width,
        "caption_projection_dim": config.width,
        "pooled_projection_dim": config.pooled_width,
        "pos_embed_max_size": config.pos_embed_max_size,
        "qk_norm": "rms_norm" if config.qk_norm else None,
        "dual_attention_layers": list(range(config.dual_layers)),
    }
    tensors = shift_first(published_tensors(transformer, transformer_names("diffusers")), config.layers)
    table = positions(config.pos_embed_max_size, config.pos_embed_max_size, config)
    write_part(folder, values, tensors | {"pos_embed.pos_embed": table[None].clone()}, DIFFUSERS_WEIGHTS)


def _write_encoders(encoders: TextEncoders, folder: Path) -> None:
    write_clip(encoders.clip_l, encoders.tokenizer, folder / "text_encoder", projection=True)
    write_clip_tokenizer(encoders.tokenizer, folder / "tokenizer")
    write_clip(encoders.clip_g, encoders.tokenizer_g, folder / "text_encoder_2", projection=True)
    write_clip_tokenizer(encoders.tokenizer_g, folder / "tokenizer_2")
    if encoders.t5 is not None and encoders.t5_tokenizer is not None:
        write_t5(encoders.t5, encoders.t5_tokenizer, folder / "text_encoder_3", encoders.width)
        write_t5_tokenizer(encoders.t5_tokenizer, folder / "tokenizer_3")
