"""Stable Diffusion 3 as diffusers and transformers build it, with random weights, in both published layouts.

What the course's own implementation is measured against, by tests and by `python -m benchmarks check sd3`.
"""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.parity import randomised
from benchmarks.sd1.reference import MERGES, TOKENIZER, write_merges
from helpers.autoencoders import kl
from helpers.autoencoders.kl import KLConfig
from helpers.sd3 import checkpoint
from helpers.sd3.mmdit import MMDiTConfig, positions
from helpers.sd3.pipeline import SD3Config, StableDiffusion3
from helpers.text.clip import TEXT_NAMES, CLIPTowerConfig
from helpers.text.t5 import T5_NAMES, T5Config
from helpers.weights.export import published_tensors
from helpers.weights.pretrained import KeyMapping

TOWER = CLIPTowerConfig(width=24, layers=3, heads=4, mlp=96, vocabulary=len(TOKENIZER), length=16, projection=24)
SMALL = SD3Config(
    transformer=MMDiTConfig(
        width=128, layers=3, heads=2, text_width=64, pooled_width=56, pos_embed_max_size=12, pos_embed_base_size=64
    ),
    autoencoder=replace(KLConfig.sd3(), width=16, groups=8),
    clip_l=TOWER,
    clip_g=replace(TOWER, width=32, mlp=80, activation="gelu", projection=32),
    t5=T5Config(vocabulary=64, width=64, layers=2, heads=4, head_width=8, mlp=64),
    t5_length=24,
    size=64,
)
SMALL_3_5 = replace(SMALL, transformer=replace(SMALL.transformer, pos_embed_max_size=24, qk_norm=True, dual_layers=2))


def t5_tokenizer(folder: Path) -> Path:
    """Write a small tokenizer like T5's, unigrams with the two special tokens, as a published folder holds it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    from benchmarks.sd1.reference import CORPUS

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def transformer_reference(sizes: MMDiTConfig, head_width: int = 64) -> nn.Module:
    """diffusers' transformer of these sizes, on the current device, with its own initial weights."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=sizes.pos_embed_base_size * sizes.patch,
        patch_size=sizes.patch,
        in_channels=sizes.latent_channels,
        num_layers=sizes.layers,
        attention_head_dim=head_width,
        num_attention_heads=sizes.heads,
        joint_attention_dim=sizes.text_width,
        caption_projection_dim=sizes.width,
        pooled_projection_dim=sizes.pooled_width,
        out_channels=sizes.latent_channels,
        pos_embed_max_size=sizes.pos_embed_max_size,
        qk_norm="rms_norm" if sizes.qk_norm else None,
        dual_attention_layers=tuple(range(sizes.dual_layers)),
    )


def reference(config: SD3Config, folder: Path):
    """diffusers' pipeline of these sizes; its T5 tokenizer is read from the folder."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        PreTrainedTokenizerFast,
        T5EncoderModel,
    )
    from transformers import T5Config as TheirT5Config

    torch.manual_seed(0)
    auto = config.autoencoder
    t5 = config.t5
    towers = [
        CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=tower.vocabulary,
                hidden_size=tower.width,
                intermediate_size=tower.mlp,
                num_hidden_layers=tower.layers,
                num_attention_heads=tower.heads,
                max_position_embeddings=tower.length,
                hidden_act=tower.activation,
                projection_dim=tower.projection,
                bos_token_id=TOKENIZER.bos_id,
                eos_token_id=TOKENIZER.eos_id,
                pad_token_id=TOKENIZER.eos_id,
            )
        )
        for tower in (config.clip_l, config.clip_g)
    ]
    towers[0].text_projection.weight.data = torch.eye(config.clip_l.width)  # as published
    levels = len(auto.multipliers)
    autoencoder = AutoencoderKL(
        block_out_channels=[auto.width * m for m in auto.multipliers],
        layers_per_block=auto.blocks,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=auto.latent_channels,
        norm_num_groups=auto.groups,
        scaling_factor=auto.scale,
        shift_factor=auto.shift,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=config.size,
    )
    t5_encoder = T5EncoderModel(
        TheirT5Config(
            vocab_size=t5.vocabulary,
            d_model=t5.width,
            d_kv=t5.head_width,
            d_ff=t5.mlp,
            num_layers=t5.layers,
            num_heads=t5.heads,
            feed_forward_proj="gated-gelu",
        )
    )
    clip_tokenizers = [
        CLIPTokenizer(vocab=TOKENIZER.ids, merges=MERGES, model_max_length=config.clip_l.length) for _ in range(2)
    ]
    clip_tokenizers[1].pad_token = clip_tokenizers[1].convert_ids_to_tokens(0)
    fast_tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(t5_tokenizer(folder) / "tokenizer.json"), pad_token="<pad>", eos_token="</s>"
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=randomised(transformer_reference(config.transformer)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=config.shift),
        vae=randomised(autoencoder),
        text_encoder=randomised(towers[0]),
        tokenizer=clip_tokenizers[0],
        text_encoder_2=randomised(towers[1]),
        tokenizer_2=clip_tokenizers[1],
        text_encoder_3=randomised(t5_encoder),
        tokenizer_3=fast_tokenizer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stability_tensors(model: StableDiffusion3, encoders: bool = True) -> dict[str, Tensor]:
    """Our weights under the single file's names."""
    tensors = {}
    sizes = model.config.transformer
    parts: list[tuple[str, nn.Module, KeyMapping]] = [
        ("transformer", model.transformer, checkpoint.transformer_names("stability")),
        ("autoencoder", model.autoencoder, kl.published_names(model.config.autoencoder, "compvis")),
    ]
    if encoders:
        parts += [
            ("clip_l", model.encoders.clip_l, TEXT_NAMES),
            ("clip_g", model.encoders.clip_g, TEXT_NAMES),
        ]
        if model.encoders.t5 is not None:
            parts.append(("t5", model.encoders.t5, T5_NAMES))
    for part, module, renaming in parts:
        for name, tensor in published_tensors(module, renaming).items():
            convolution = tensor.ndim == 2 and "attn_1." in name
            tensors[checkpoint.PREFIXES[part] + name] = tensor[:, :, None, None] if convolution else tensor
    table = positions(sizes.pos_embed_max_size, sizes.pos_embed_max_size, sizes)[None].clone()
    return tensors | {checkpoint.PREFIXES["transformer"] + "pos_embed": table}


def write_layouts(peer, config: SD3Config, into: Path) -> dict[str, Path]:
    """A diffusers folder and a single file of the same weights, and the tokenizers' folders."""
    folder = into / "diffusers"
    single = into / "model.safetensors"
    peer.save_pretrained(folder)
    write_merges(folder / "tokenizer")
    save_file(stability_tensors(StableDiffusion3.from_checkpoint(folder, config=config)), single)
    return {
        "diffusers": folder,
        "single": single,
        "tokenizer": folder / "tokenizer",
        "tokenizer_3": folder / "tokenizer_3",
    }
