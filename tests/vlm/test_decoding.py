"""Decoding: attention masks, positions, sampling, cache, streaming, attention maps."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.paligemma.reference import PROCESSOR, SMALL, TOKENIZER
from helpers.layers.attention import record_attention_maps
from helpers.vlm import fast
from helpers.vlm.decoding import CachedDecoder, generate, sample_token
from helpers.vlm.gemma import Gemma, GemmaConfig, Linear, RMSNorm, RotaryEmbedding
from helpers.vlm.paligemma import positions, prefix_lm_mask
from helpers.vlm.processor import Tokenizer

IMAGE = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_prefix_lm_mask():
    suffix = torch.tensor([[0, 0, 0, 1, 1, 0]]).bool()
    attention_mask = torch.tensor([[1, 1, 1, 1, 1, 0]]).bool()
    assert prefix_lm_mask(suffix, attention_mask)[0, :5].int().tolist() == [
        [1, 1, 1, 0, 0, 0],  # the prefix attends to all of itself, and to nothing of the answer
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],  # the answer attends to the prefix, to itself so far, and to no padding
        [1, 1, 1, 1, 1, 0],
    ]
    assert positions(attention_mask).tolist() == [[1, 2, 3, 4, 5, 5]]


def test_rotary_scores_depend_on_distances_only():
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0))

    def score(i: int, j: int) -> float:
        return (
            (RotaryEmbedding.at(torch.tensor([[i]]), 16)(q) * RotaryEmbedding.at(torch.tensor([[j]]), 16)(k))
            .sum()
            .item()
        )

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert abs(score(9, 4) - score(9, 8)) > 1e-2
    assert RotaryEmbedding.at(torch.tensor([[7]]), 16)(q).norm().item() == pytest.approx(q.norm().item(), rel=1e-5)


def test_greedy_and_random_sampling():
    logits = torch.tensor([[0.0, 2.0, 1.0, -5.0]]).log_softmax(-1).repeat(4000, 1)
    assert sample_token(logits).unique().tolist() == [1]
    generator = torch.Generator().manual_seed(0)
    counts = Counter(sample_token(logits, 1.0, generator=generator).tolist())
    for token, probability in enumerate(logits[0].exp().tolist()):
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)
    nucleus = set(sample_token(logits, 1.0, top_p=0.8, generator=generator).tolist())
    assert nucleus == {1, 2}, "the most likely token has 66 %, with the next one it is more than 80"
    assert set(sample_token(logits, 1.0, top_p=0.1, generator=generator).tolist()) == {1}


def test_selected_states_are_the_same_and_skip_the_rest(assistant):
    batch = PROCESSOR([IMAGE] * 2, ["caption en", "detect nose"], ["a cat", "a striped dog"])
    only = torch.rand(batch.ids.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    work = []
    mlp = assistant.model.language.layers[-1].out
    hook = mlp.register_forward_hook(lambda _, inputs, out: work.append(inputs[0].shape[:-1].numel()))
    try:
        with torch.no_grad():
            states = [assistant.model.hidden_states(batch)[only], assistant.model.hidden_states(batch, only=only)]
    finally:
        hook.remove()
    torch.testing.assert_close(*states)
    assert work == [batch.ids.numel(), int(only.sum())]


@pytest.mark.parametrize("vocabulary", [10_002, 10_003])  # the second cannot be divided between two cores
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("amd", [True, False])
def test_logits_are_the_plain_product(vocabulary, rows, amd, monkeypatch):
    monkeypatch.setattr(fast, "processor_is_amd", lambda: amd)
    splits = []
    split_linear = fast.split_linear
    monkeypatch.setattr(fast, "split_linear", lambda x, table: splits.append(len(x)) or split_linear(x, table))
    gemma = Gemma(GemmaConfig(vocabulary, width=8, layers=1, heads=1, head_width=4, mlp=8))
    states = torch.randn(rows, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = gemma.logits(states)
    plain = F.linear(states, gemma.tokens.weight)
    torch.testing.assert_close(logits, plain)
    assert splits == ([rows] if amd and rows < 40 else [])
    gradients = (torch.autograd.grad(out.square().mean(), states)[0] for out in (logits, plain))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (1, 2), (1, 3), (5, 2)])
def test_a_split_table_gives_the_plain_product(rows, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, 8, generator=generator)
    table = torch.randn(100, 8, generator=generator)
    torch.testing.assert_close(fast.split_linear(states, table), F.linear(states, table))


def test_only_few_float32_rows_on_amd_are_split(monkeypatch):
    monkeypatch.setattr(fast, "processor_is_amd", lambda: True)
    table = torch.empty(20_000, 8)
    assert fast.prefers_split(torch.empty(16, 8), table)
    assert not fast.prefers_split(torch.empty(17, 8), table)
    assert not fast.prefers_split(torch.empty(1, 4, 8), table)
    assert not fast.prefers_split(torch.empty(16, 8), table[:10_000])
    assert not fast.prefers_split(torch.empty(16, 8), table.bfloat16())
    monkeypatch.setattr(fast, "processor_is_amd", lambda: False)
    assert not fast.prefers_split(torch.empty(16, 8), table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_the_formula(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 48, generator=generator).to(dtype)
    norm = RMSNorm(48)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(48, generator=generator))
        mean_square = x.float().square().mean(dim=-1, keepdim=True)
        expected = x.float() / (mean_square + 1e-6).sqrt() * (1 + norm.weight)
        torch.testing.assert_close(norm(x), expected.to(dtype))


def test_embeddings_are_scaled_as_in_training():
    """Gemma was trained with sqrt(D) rounded to bfloat16: 45.25 for 2,048."""
    gemma = Gemma(GemmaConfig(50, width=2048, layers=0, heads=1, head_width=4, mlp=8)).to(torch.bfloat16)
    ids = torch.arange(50)[None]
    expected = gemma.tokens.weight[None] * torch.tensor(45.25, dtype=torch.bfloat16)
    assert torch.equal(gemma.embed(ids), expected)


def test_every_hook_is_called():
    """Hooks of a module, and those of all modules, which readers of the course use to look inside."""
    for layer in (Linear(2, 3), RMSNorm(2)):
        called = []
        hooks = [
            layer.register_forward_hook(lambda *_, called=called: called.append("after")),
            layer.register_forward_pre_hook(lambda *_, called=called: called.append("before")),
            layer.register_full_backward_hook(lambda *_, called=called: called.append("backward")),
            nn.modules.module.register_module_forward_hook(lambda *_, called=called: called.append("global")),
        ]
        layer(torch.randn(1, 2, requires_grad=True)).sum().backward()
        for hook in hooks:
            hook.remove()
        layer(torch.randn(1, 2)).sum().backward()
        assert called == ["before", "global", "after", "backward"]


def test_a_row_that_has_ended_gets_padding(assistant):
    batch = PROCESSOR([IMAGE] * 2, ["caption en", "detect nose"])
    first = next(generate(assistant.model, batch, eos_token_id=-1, max_new_tokens=1)).ids
    end = int(first[0])
    steps = list(generate(assistant.model, batch, eos_token_id=end, pad_token_id=0, max_new_tokens=6))
    assert all(int(step.ids[0]) == 0 for step in steps[1:])
    steps = list(generate(assistant.model, batch.rows(slice(0, 1)), eos_token_id=end, max_new_tokens=6))
    assert len(steps) == 1, "nothing is computed once every row has ended"


def test_the_image_is_encoded_once(assistant):
    calls = []
    vision = assistant.model.vision
    handle = vision.register_forward_hook(lambda *_: calls.append(1))
    assistant.caption(IMAGE, max_new_tokens=5)
    handle.remove()
    assert len(calls) == 1


def test_the_cache_is_reserved_once(assistant):
    decoder = CachedDecoder(assistant.model, PROCESSOR([IMAGE], ["caption en"]), max_new_tokens=7)
    memory = decoder.cache.memory.data_ptr()
    length = decoder.cache.filled
    for _ in range(7):
        decoder.add(decoder.logits.argmax(-1))
    assert decoder.cache.memory.data_ptr() == memory and decoder.cache.filled == length + 7
    language = SMALL.language
    assert decoder.cache.nbytes == 4 * 2 * language.layers * language.kv_heads * language.head_width * (length + 7)


def test_streaming_gives_the_same_text(assistant):
    for temperature in (0.0, 1.0):
        options = {"max_new_tokens": 12, "temperature": temperature, "seed": 3}
        assert "".join(assistant.stream(IMAGE, "caption en", **options)) == assistant.caption(IMAGE, **options)


def test_the_seed_determines_the_sample(assistant):
    texts = [assistant.caption(IMAGE, temperature=1.0, seed=seed, max_new_tokens=10) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_lists_in_lists_out_whatever_the_batches(assistant):
    images = [IMAGE, -IMAGE, IMAGE.flip(1)]
    alone = [assistant.caption(image, max_new_tokens=6) for image in images]
    assert assistant.caption(images, max_new_tokens=6) == alone
    assert assistant.caption(images, max_new_tokens=6, batch_size=2) == alone


def test_recorded_maps_are_those_of_the_fast_path(assistant):
    batch = PROCESSOR([IMAGE] * 2, ["caption en", "answer en what animal is this?"], ["a cat", "a"])
    with torch.no_grad():
        plain = assistant.model.logits(batch)
        with record_attention_maps(assistant.model.language, cross_only=False) as layers:
            recorded = assistant.model.logits(batch)
            maps = [layer.attention_map for layer in layers.values()]
    assert torch.allclose(plain[batch.attention_mask], recorded[batch.attention_mask], atol=1e-5)
    assert len(maps) == SMALL.language.layers
    assert torch.allclose(maps[0].sum(-1), torch.ones(()), atol=1e-5)
    assert not maps[0].masked_select(~prefix_lm_mask(batch.suffix, batch.attention_mask)[:, None]).any()


def test_several_questions_about_an_image(assistant):
    """Rows share an image that is encoded once."""
    batch = PROCESSOR([IMAGE] * 2, ["caption en", "detect nose"], ["a cat", "left"])
    with torch.no_grad():
        shared = assistant.model.losses(batch._replace(images=batch.images[:1]))
        assert torch.allclose(shared, assistant.model.losses(batch), atol=1e-6)


def test_gemmas_tokenizer():
    """The real vocabulary, where it is available."""
    file = Path(os.environ.get("GEMMA_TOKENIZER", ""))
    if not file.is_file():
        pytest.skip("GEMMA_TOKENIZER names no tokenizer.json or tokenizer.json.gz of Gemma or PaliGemma")
    tokenizer = Tokenizer.from_file(file)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)
    assert tokenizer.image_token_id == 257_152
    assert tokenizer("<loc0000><loc1023><seg000><seg127>") == [256_000, 257_023, 257_024, 257_151]
    text = "Where is the cat standing? 猫 🐈"
    assert tokenizer.decode(tokenizer(text)) == text
    assert tokenizer("\n") == [108]
    assert TOKENIZER.decode(TOKENIZER("a striped dog on a red background")) == "a striped dog on a red background"
