"""The course's PaliGemma beside transformers': logits, losses, greedy tokens, batches with padding, cache or not."""

import math
from copy import deepcopy

import pytest
import torch

from benchmarks.paligemma.parity import IMAGES, LIMIT, PROMPTS, SUFFIXES, compare_batch, compare_generation
from benchmarks.paligemma.reference import PROCESSOR, SMALL, TOKENIZER, ours_of, reference, write_folder
from benchmarks.parity import difference, randomised
from helpers.vlm.gemma import GEMMA_NAMES, Gemma, GemmaConfig
from helpers.vlm.paligemma import PaliGemmaConfig, PaliGemmaModel
from helpers.vlm.pipeline import PaliGemma
from helpers.vlm.siglip import SIGLIP_NAMES, SiglipConfig, SiglipTower, sigmoid_losses, similarity, softmax_losses
from helpers.weights.pretrained import load_pretrained


@pytest.fixture(scope="module")
def theirs():
    return reference()


@pytest.fixture(scope="module")
def ours(theirs):
    return ours_of(theirs)


@torch.no_grad()
@pytest.mark.parametrize("config", [SiglipConfig(28, 14, 32, 2, 4, 48), SiglipConfig(56, layers=1)])
def test_the_vision_tower_is_the_reference(config):
    """The second is one layer of full width."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    theirs = randomised(
        SiglipVisionModel(
            SiglipVisionConfig(
                image_size=config.size,
                patch_size=config.patch,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp,
                vision_use_head=False,
            )
        )
    )
    ours = SiglipTower(config)
    tensors = {name.removeprefix("vision_model."): tensor for name, tensor in theirs.state_dict().items()}
    load_pretrained(ours, tensors, SIGLIP_NAMES, what="a vision tower")
    images = torch.rand(2, 3, config.size, config.size) * 2 - 1
    assert difference(ours(images), theirs(images).last_hidden_state) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        GemmaConfig(50, 48, 3, 4, 1, 16, 64),
        GemmaConfig(50, 48, 2, 4, 2, 16, 64),
        GemmaConfig(300, layers=1),
    ],
)
def test_the_decoder_is_the_reference(config):
    """The second has two key/value heads, the third is one layer of full width."""
    from transformers import GemmaConfig as TheirConfig
    from transformers import GemmaForCausalLM

    theirs = randomised(
        GemmaForCausalLM(
            TheirConfig(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.kv_heads,
                head_dim=config.head_width,
                intermediate_size=config.mlp,
            )
        )
    )
    ours = Gemma(config)
    tensors = {n.removeprefix("model."): t for n, t in theirs.state_dict().items() if n != "lm_head.weight"}
    load_pretrained(ours, tensors, GEMMA_NAMES, what="a decoder")
    ids = torch.randint(config.vocabulary, (2, 9), generator=torch.Generator().manual_seed(0))
    causal = torch.ones(2, 9, 9, dtype=torch.bool).tril()
    states = ours(ours.embed(ids), torch.arange(9).expand(2, 9), causal)
    assert difference(ours.logits(states), theirs(ids).logits) <= 1e-5


def test_logits_and_losses_of_a_batch_with_padding(theirs, ours):
    assert not PROCESSOR(IMAGES, PROMPTS, SUFFIXES).attention_mask.all()
    assert max(compare_batch(theirs, ours)) <= LIMIT


@torch.no_grad()
def test_the_loss_of_a_row_does_not_depend_on_the_others(ours):
    together = ours.losses(PROCESSOR(IMAGES, PROMPTS, SUFFIXES))
    alone = [ours.losses(PROCESSOR([p], [q], [a])) for p, q, a in zip(IMAGES, PROMPTS, SUFFIXES, strict=True)]
    assert difference(together, torch.cat(alone)) <= 1e-5


@pytest.mark.parametrize("cached", [True, False])
def test_greedy_tokens_of_a_batch_with_padding(theirs, ours, cached):
    same, largest = compare_generation(theirs, ours, cached)
    assert same
    assert largest <= LIMIT


@torch.no_grad()
def test_the_two_losses_of_pairs():
    """SigLIP's algorithm 1 and CLIP's figure 3, pair by pair."""
    a, b = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    logits = similarity(a, b, torch.tensor(2.0), torch.tensor(-3.0))
    probabilities = [[1 / (1 + math.exp(-logits[i, j])) for j in range(5)] for i in range(5)]
    total = 0.0
    for i, row in enumerate(probabilities):
        for j, p in enumerate(row):
            total -= math.log(p if i == j else 1 - p)
    assert sigmoid_losses(logits).mean().item() == pytest.approx(total / 5, rel=1e-5)
    odds = logits.exp().tolist()
    across = [-math.log(odds[i][i] / sum(odds[i])) for i in range(5)]
    down = [-math.log(odds[i][i] / sum(row[i] for row in odds)) for i in range(5)]
    assert softmax_losses(logits).mean().item() == pytest.approx((sum(across) + sum(down)) / 10, rel=1e-5)


@pytest.mark.parametrize(("year", "shards"), [(2024, 2), (2025, 1), (2026, 3)])
def test_checkpoints_of_every_year(theirs, ours, tmp_path, year, shards):
    loaded = PaliGemma.from_checkpoint(write_folder(theirs, tmp_path / "x", year, shards))
    batch = PROCESSOR(IMAGES, PROMPTS)
    with torch.no_grad():
        assert torch.equal(loaded.model.logits(batch), ours.logits(batch))
    assert loaded.model.config == SMALL


def test_transformers_own_folder(theirs, ours, tmp_path):
    """As `save_pretrained` writes it today."""
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.to_json())
    loaded = PaliGemma.from_checkpoint(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.model.logits(PROCESSOR(IMAGES, PROMPTS)), ours.logits(PROCESSOR(IMAGES, PROMPTS)))


def test_half_precision(theirs, ours, tmp_path):
    """Rounding to bfloat16 has the same effect as in the reference, measured by the standard deviation of the error."""
    loaded = PaliGemma.from_checkpoint(write_folder(theirs, tmp_path, 2026), dtype=torch.bfloat16)
    batch = PROCESSOR(IMAGES, PROMPTS)
    with torch.no_grad():
        exact = ours.logits(batch)
        ours_half = loaded.model.logits(batch).float()
        theirs_half = (
            deepcopy(theirs)
            .to(torch.bfloat16)(
                input_ids=batch.ids,
                pixel_values=batch.images.to(torch.bfloat16),
                attention_mask=batch.attention_mask.long(),
                token_type_ids=torch.zeros_like(batch.ids),
            )
            .logits.float()
        )
    ours_error, theirs_error = (
        (logits - exact)[batch.attention_mask].std().item() for logits in (ours_half, theirs_half)
    )
    assert 0 < ours_error < 1.25 * theirs_error
    assert len(loaded.generate(IMAGES, PROMPTS, max_new_tokens=3)) == len(PROMPTS)


@pytest.mark.parametrize(
    ("config", "parameters", "tokens"),
    [
        (PaliGemmaConfig.paligemma_3b_224(), 2_923_466_480, 256),
        (PaliGemmaConfig.paligemma_3b_448(), 2_923_466_480 + 768 * 1152, 1024),
        (PaliGemmaConfig.paligemma_3b_896(), 2_923_466_480 + 3840 * 1152, 4096),
    ],
)
def test_published_sizes(config, parameters, tokens):
    with torch.device("meta"):
        model = PaliGemmaModel(config)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert config.vision.tokens == tokens
