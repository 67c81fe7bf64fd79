"""Stable Diffusion 1 as diffusers and transformers build it, with random weights, in every published layout.

What the course's own implementation is measured against, by tests and by `python -m benchmarks check sd1`.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.parity import randomised
from helpers.autoencoders import kl
from helpers.autoencoders.kl import KLConfig
from helpers.sd1 import checkpoint
from helpers.sd1.pipeline import SD1Config, StableDiffusion1
from helpers.sd1.unet import UNetConfig
from helpers.text.bpe import BytePairTokenizer
from helpers.text.clip import TEXT_NAMES, CLIPTowerConfig
from helpers.text.export import write_clip_tokenizer
from helpers.text.train import learn_merges
from helpers.weights.export import published_tensors

CORPUS = ["a striped orange cat with green eyes", "a plain grey dog with blue eyes", "a photo of a cat and a dog"] * 3
MERGES = list(learn_merges(CORPUS, 60))
TOKENIZER = BytePairTokenizer(MERGES, length=16)
SMALL = SD1Config(
    text=CLIPTowerConfig(width=24, layers=3, heads=4, mlp=96, vocabulary=len(TOKENIZER), length=16),
    unet=UNetConfig(width=32, text_width=24, groups=8),
    autoencoder=KLConfig(width=16, groups=8),
    size=64,
)


def reference(config: SD1Config):
    """diffusers' pipeline of these sizes."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    text = config.text
    unet = config.unet
    auto = config.autoencoder
    tower = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=text.vocabulary,
            hidden_size=text.width,
            intermediate_size=text.mlp,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            max_position_embeddings=text.length,
            hidden_act=text.activation,
            bos_token_id=TOKENIZER.bos_id,
            eos_token_id=TOKENIZER.eos_id,
            pad_token_id=TOKENIZER.eos_id,
        )
    )
    crossed = [f"{'CrossAttn' * has}DownBlock2D" for has in unet.attention]
    network = UNet2DConditionModel(
        sample_size=config.size // auto.downsampling_factor,
        in_channels=4,
        out_channels=4,
        layers_per_block=unet.blocks,
        block_out_channels=[unet.width * m for m in unet.multipliers],
        cross_attention_dim=unet.text_width,
        attention_head_dim=unet.heads,
        norm_num_groups=unet.groups,
        down_block_types=crossed,
        up_block_types=[name.replace("Down", "Up") for name in reversed(crossed)],
    )
    levels = len(auto.multipliers)
    autoencoder = AutoencoderKL(
        block_out_channels=[auto.width * m for m in auto.multipliers],
        layers_per_block=auto.blocks,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=auto.latent_channels,
        norm_num_groups=auto.groups,
        scaling_factor=auto.scale,
        sample_size=config.size,
    )
    vocabulary: dict[str, Any] = {"vocab": TOKENIZER.ids, "merges": MERGES}  # the stub takes no pairs
    tokenizer = CLIPTokenizer(**vocabulary, model_max_length=text.length)
    schedule = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=randomised(autoencoder),
        text_encoder=randomised(tower),
        unet=randomised(network),
        tokenizer=tokenizer,
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_merges(folder: Path) -> Path:
    """Write CLIP's tokenizer files, merges.txt and vocab.json, into a folder and return it."""
    write_clip_tokenizer(TOKENIZER, folder)
    return folder


def compvis_tensors(model: StableDiffusion1) -> dict[str, Tensor]:
    """Our weights under CompVis's names; diffusers' own converter of such files confirms that the names are right."""
    parts = [
        (checkpoint.UNET, model.unet, checkpoint.unet_names(model.config.unet, "compvis")),
        (checkpoint.VAE, model.autoencoder, kl.published_names(model.config.autoencoder, "compvis")),
        (checkpoint.CLIP, model.text, TEXT_NAMES),
    ]
    tensors = {}
    for prefix, module, renaming in parts:
        for name, tensor in published_tensors(module, renaming).items():
            convolution = tensor.ndim == 2 and any(layer in name for layer in ("attn_1.", "proj_in", "proj_out"))
            tensors[prefix + name] = tensor[:, :, None, None] if convolution else tensor
    positions = torch.arange(model.config.text.length)[None]
    tensors[checkpoint.CLIP + "text_model.embeddings.position_ids"] = positions
    return tensors | {"betas": torch.zeros(3), "sqrt_alphas_cumprod": torch.zeros(3)}


def write_layouts(peer, into: Path) -> dict[str, Path]:
    """A diffusers folder, a safetensors file and a pickle of the same weights, and the folder of the tokenizer."""
    folder = into / "diffusers"
    single = into / "model.safetensors"
    pickled = into / "model.ckpt"
    peer.save_pretrained(folder)
    tokenizer = write_merges(folder / "tokenizer")
    tensors = compvis_tensors(StableDiffusion1.from_checkpoint(folder, config=SMALL))
    save_file(tensors, single)
    torch.save({"state_dict": tensors, "global_step": 470_000, "epoch": 0}, pickled)
    return {"diffusers": folder, "safetensors": single, "ckpt": pickled, "tokenizer": tokenizer}
