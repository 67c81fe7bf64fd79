"""PaliGemma 2 beside transformers': every part that PaliGemma 1 does not have, and what happens without it.

All sequences here are longer than the sliding window, and many attention scores and logits exceed their caps.
"""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from benchmarks.paligemma.parity import (
    IMAGES,
    LIMIT,
    PROMPTS,
    SUFFIXES,
    WIDE,
    compare_batch,
    compare_decoders,
    compare_generation,
    reference_decoder,
)
from benchmarks.paligemma.reference import PROCESSOR, SMALL2, TOKENIZER, ours_of, reference, write_folder
from benchmarks.parity import difference
from helpers.layers.attention import record_attention_maps
from helpers.vlm import checkpoint, paligemma
from helpers.vlm.export import to_transformers
from helpers.vlm.gemma import Gemma, GemmaConfig, RotaryEmbedding
from helpers.vlm.gemma2 import Gemma2Config
from helpers.vlm.paligemma import PaliGemmaConfig, PaliGemmaModel, is_within_window
from helpers.vlm.pipeline import PaliGemma, save_model

VISIBLE = 100 * LIMIT  # what a missing part must change at least, so that parity proves that it is there


@pytest.fixture(scope="module")
def theirs():
    return reference(SMALL2)


@pytest.fixture
def ours(theirs):
    return ours_of(theirs, SMALL2)


def with_config(model: PaliGemmaModel, **changes) -> PaliGemmaModel:
    """The same weights in a model whose language config differs."""
    config = replace(model.config, language=replace(model.config.language, **changes))
    changed = PaliGemmaModel(config)
    changed.load_state_dict(model.state_dict())
    return changed.eval()


def test_logits_and_losses_of_a_batch_with_padding(theirs, ours):
    mask = PROCESSOR(IMAGES, PROMPTS, SUFFIXES).attention_mask
    assert not mask.all() and mask.sum(dim=1).min() > SMALL2.language.window
    assert max(compare_batch(theirs, ours)) <= LIMIT


@pytest.mark.parametrize("cached", [True, False])
def test_greedy_tokens_of_a_batch_with_padding(theirs, ours, cached):
    same, largest = compare_generation(theirs, ours, cached)
    assert same
    assert largest <= LIMIT


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_cap": None},
        {"attention_cap": 5.0},
        {"logit_cap": None},
        {"window": 1000},
        {"window": 3},
        {"window": 5},
        {"query_scalar": SMALL2.language.head_width},
    ],
    ids=str,
)
def test_without_a_part_there_is_no_parity(theirs, ours, changes):
    changed = with_config(ours, **changes)
    assert compare_batch(theirs, changed)[0] > VISIBLE
    assert compare_generation(theirs, changed, cached=True)[1] > VISIBLE
    assert compare_generation(theirs, changed, cached=False)[1] > VISIBLE


@pytest.mark.parametrize("name", ["norm_1", "post_norm_1", "norm_2", "post_norm_2"])
def test_without_a_norm_there_is_no_parity(theirs, ours, name):
    setattr(ours.language.layers[-1], name, nn.Identity())
    assert compare_batch(theirs, ours)[0] > VISIBLE


def test_with_global_layers_first_there_is_no_parity(theirs, ours):
    for layer in ours.language.layers:
        layer.local = not layer.local
    assert compare_batch(theirs, ours)[0] > VISIBLE


def test_with_a_window_over_the_prefix_there_is_no_parity(theirs, ours, monkeypatch):
    def windowed(suffix, attention_mask, window):
        numbers = paligemma.positions(attention_mask)
        return paligemma.prefix_lm_mask(suffix, attention_mask) & is_within_window(numbers, numbers, window)

    monkeypatch.setattr(paligemma, "local_prefix_lm_mask", windowed)
    assert compare_batch(theirs, ours)[0] > VISIBLE


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_cap": None, "layers": 2},
        {"logit_cap": None},
        {"window": 2},
        {"window": 1000},
        {"query_scalar": 25},
        {"kv_heads": 4},
        {"kv_heads": 1, "layers": 3},
    ],
    ids=str,
)
def test_what_a_configuration_says_is_followed(tmp_path, changes):
    """Read from the folder that transformers' own `save_pretrained` writes; null means no cap."""
    config = replace(SMALL2, language=replace(SMALL2.language, **changes))
    theirs = reference(config)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.to_json())
    loaded = PaliGemma.from_checkpoint(tmp_path)
    assert loaded.model.config == config
    assert max(compare_batch(theirs, loaded.model)) <= LIMIT


@pytest.mark.parametrize(("year", "shards"), [(2024, 2), (2025, 1), (2026, 3)])
def test_checkpoints_of_every_year(theirs, ours, tmp_path, year, shards):
    loaded = PaliGemma.from_checkpoint(write_folder(theirs, tmp_path / "x", year, shards, SMALL2))
    assert loaded.model.config == SMALL2
    batch = PROCESSOR(IMAGES, PROMPTS)
    with torch.no_grad():
        assert torch.equal(loaded.model.logits(batch), ours.logits(batch))
    assert loaded.generate(IMAGES, PROMPTS, max_new_tokens=5) == PaliGemma(ours, TOKENIZER).generate(
        IMAGES, PROMPTS, max_new_tokens=5
    )


def test_the_published_configuration(tmp_path):
    """That of google/paligemma2-3b-pt-224: what it leaves out is Gemma 2's default, not Gemma 1's."""
    published = {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "hidden_size": 2048,
        "image_token_index": 257152,
        "num_hidden_layers": 26,
        "projection_dim": 2304,
        "text_config": {
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "attn_logit_softcapping": 50.0,
            "cache_implementation": "hybrid",
            "eos_token_id": [1, 107],
            "final_logit_softcapping": 30.0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_image_tokens": 256,
            "num_key_value_heads": 4,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "torch_dtype": "bfloat16",
            "vocab_size": 257216,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "num_image_tokens": 256,
            "num_positions": 256,
            "patch_size": 14,
            "projection_dim": 2304,
            "vision_use_head": False,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    assert checkpoint.config_of(tmp_path) == PaliGemmaConfig.paligemma2("3b")
    for entry in ("num_key_value_heads", "intermediate_size", "hidden_size", "num_hidden_layers"):
        del published["text_config"][entry]
    (tmp_path / "config.json").write_text(json.dumps(published))
    assert checkpoint.config_of(tmp_path) == PaliGemmaConfig.paligemma2("3b")


@pytest.fixture(scope="module")
def wide():
    return reference_decoder(WIDE)


def test_one_layer_of_full_width(wide):
    assert compare_decoders(wide, WIDE) <= LIMIT


@pytest.mark.parametrize(
    "changes",
    [{"attention_cap": None}, {"logit_cap": None}, {"window": 9}, {"query_scalar": WIDE.width / WIDE.heads}],
    ids=str,
)
def test_one_layer_of_full_width_without_a_part(wide, changes):
    assert compare_decoders(wide, replace(WIDE, **changes)) > VISIBLE


def test_the_decoder_with_heads_like_the_largest():
    """Gemma 2 27B: heads narrower than width / heads, and a scale that is not theirs."""
    config = Gemma2Config(50, 72, 4, 8, 4, 4, 64, query_scalar=9, window=3)
    assert compare_decoders(reference_decoder(config), config) <= LIMIT


def test_half_precision(theirs, ours, tmp_path):
    """Rounding to bfloat16 has the same effect as in the reference, measured by the standard deviation of the error."""
    loaded = PaliGemma.from_checkpoint(write_folder(theirs, tmp_path, 2026, config=SMALL2), dtype=torch.bfloat16)
    batch = PROCESSOR(IMAGES, PROMPTS)
    with torch.no_grad():
        exact = ours.logits(batch)
        ours_half = loaded.model.logits(batch).float()
        theirs_half = deepcopy(theirs).to(torch.bfloat16)(
            input_ids=batch.ids,
            pixel_values=batch.images.to(torch.bfloat16),
            attention_mask=batch.attention_mask.long(),
            token_type_ids=torch.zeros_like(batch.ids),
        )
    errors = [(logits - exact)[batch.attention_mask].std().item() for logits in (ours_half, theirs_half.logits.float())]
    assert 0 < errors[0] < 1.25 * errors[1]


def test_gradients_are_those_of_the_reference(theirs, ours):
    batch = PROCESSOR(IMAGES[1:2], PROMPTS[1:2], SUFFIXES[1:2])
    ours.losses(batch).mean().backward()
    theirs.zero_grad()
    theirs(
        input_ids=batch.ids,
        pixel_values=batch.images,
        attention_mask=batch.attention_mask.long(),
        token_type_ids=batch.suffix.long(),
        labels=batch.ids.masked_fill(~batch.suffix, -100),
    ).loss.backward()
    reference_gradients = theirs.model.multi_modal_projector.linear.weight.grad
    assert difference(ours.projector.weight.grad, reference_gradients) <= LIMIT
    theirs.zero_grad()


def test_attention_maps_respect_mask_and_window(ours):
    batch = PROCESSOR(IMAGES[:1], PROMPTS[:1], SUFFIXES[:1])
    with torch.no_grad(), record_attention_maps(ours.language, cross_only=False) as layers:
        logits = ours.logits(batch)
        maps = [layer.attention_map for layer in layers.values()]
    with torch.no_grad():
        assert torch.equal(logits, ours.logits(batch))
    local, everywhere = maps[0], maps[1]  # (1, H, N, N)
    torch.testing.assert_close(local.sum(dim=-1), torch.ones_like(local[..., 0]))
    window = SMALL2.language.window
    assert not local[..., -1, :-window].any() and local[..., -1, -window:].all()
    assert everywhere[..., -1, :].all()


def test_saved_by_the_course_and_exported(ours, tmp_path):
    from transformers import PaliGemmaForConditionalGeneration

    file = tmp_path / "weights.safetensors"
    save_model(ours.half().float(), TOKENIZER, file, {})
    loaded = PaliGemma.from_weights(file, masks=None)
    assert loaded.model.config == SMALL2
    to_transformers(loaded, tmp_path / "exported")
    theirs = PaliGemmaForConditionalGeneration.from_pretrained(tmp_path / "exported").eval()
    assert max(compare_batch(theirs, loaded.model)) <= LIMIT


@pytest.mark.parametrize(
    ("size", "pixels", "published"),
    [
        ("3b", 224, 3_032_094_960),
        ("3b", 448, 3_032_979_696),
        ("3b", 896, 3_036_518_640),
        ("10b", 224, 9_662_409_456),
        ("28b", 224, 27_650_192_112),
    ],
)
def test_published_sizes(size, pixels, published):
    """As counted by keras-hub, which stores the embeddings without the 64 rows that only make their number round."""
    config = PaliGemmaConfig.paligemma2(size, pixels)
    with torch.device("meta"):
        model = PaliGemmaModel(config)
    assert sum(p.numel() for p in model.parameters()) == published + 64 * config.language.width


def test_gemma_1_is_the_same_to_the_bit():
    """Its layers, written out with fused attention and without anything of Gemma 2."""
    torch.manual_seed(0)
    config = GemmaConfig(50, 48, 3, 4, 2, 16, 64)
    gemma = Gemma(config).eval()
    numbers = torch.arange(9).expand(2, 9)
    causal = torch.ones(2, 9, 9, dtype=torch.bool).tril()
    rope = RotaryEmbedding.at(numbers, config.head_width)
    with torch.no_grad():
        x = start = gemma.embed(torch.randint(50, (2, 9)))
        for layer in gemma.layers:
            heads = layer.attention.to_qkv(layer.norm_1(x)).unflatten(-1, (8, 16))
            q, k = rope(heads[:, :, :6]).split((4, 2), dim=2)
            q = rearrange(q, "b n (g s) d -> b g (s n) d", g=2)
            v = heads[:, :, 6:].transpose(1, 2)
            mask = repeat(causal, "b n m -> b 1 (s n) m", s=2)
            mixed = F.scaled_dot_product_attention(q, k.transpose(1, 2), v, attn_mask=mask)
            x = x + layer.attention.to_out(rearrange(mixed, "b g (s n) d -> b n (g s d)", s=2))
            h = layer.norm_2(x)
            x = x + layer.out(F.gelu(layer.gate(h), approximate="tanh") * layer.value(h))
        states = gemma(start, numbers, causal)
        assert torch.equal(states, gemma.norm(x))
        assert torch.equal(gemma.logits(states), F.linear(states, gemma.tokens.weight))
