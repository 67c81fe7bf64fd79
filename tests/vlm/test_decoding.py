"""How an answer is written: masks, positions, sampling, streaming, maps."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.paligemma.reference import PROCESSOR, SMALL, WORDS
from helpers.layers.attention import record_attention_maps
from helpers.vlm import gemma as module
from helpers.vlm.decoding import CachedDecoder, choose, generate
from helpers.vlm.gemma import Gemma, GemmaConfig, Linear, RotaryEmbedding
from helpers.vlm.paligemma import positions, prefix_lm_mask
from helpers.vlm.processor import Tokenizer

PICTURE = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_who_sees_whom():
    suffix = torch.tensor([[0, 0, 0, 1, 1, 0]]).bool()
    real = torch.tensor([[1, 1, 1, 1, 1, 0]]).bool()
    assert prefix_lm_mask(suffix, real)[0, :5].int().tolist() == [
        [1, 1, 1, 0, 0, 0],  # the prefix sees itself whole, and nothing of the answer
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],  # the answer sees the prefix, itself so far, and no padding
        [1, 1, 1, 1, 1, 0],
    ]
    assert positions(real).tolist() == [[1, 2, 3, 4, 5, 5]]


def test_a_rotation_tells_distances_only():
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


def test_the_likeliest_or_a_draw():
    logits = torch.tensor([[0.0, 2.0, 1.0, -5.0]]).log_softmax(-1).repeat(4000, 1)
    assert choose(logits).unique().tolist() == [1]
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(choose(logits, 1.0, generator=generator).tolist())
    for token, chance in enumerate(logits[0].exp().tolist()):
        assert drawn[token] / 4000 == pytest.approx(chance, abs=0.03)
    nucleus = set(choose(logits, 1.0, top_p=0.8, generator=generator).tolist())
    assert nucleus == {1, 2}, "the likeliest has 66 %, with the next they pass 80"
    assert set(choose(logits, 1.0, top_p=0.1, generator=generator).tolist()) == {1}


def test_asking_for_some_states_spares_the_rest_and_changes_nothing(untaught):
    batch = PROCESSOR([PICTURE] * 2, ["caption en", "detect nose"], ["a cat", "a striped dog"])
    only = torch.rand(batch.ids.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    work = []
    mlp = untaught.model.language.layers[-1].out
    hook = mlp.register_forward_hook(lambda _, given, out: work.append(given[0].shape[:-1].numel()))
    try:
        with torch.no_grad():
            seen = [untaught.model.states(batch)[only], untaught.model.states(batch, only=only)]
    finally:
        hook.remove()
    torch.testing.assert_close(*seen)
    assert work == [batch.ids.numel(), int(only.sum())]


@pytest.mark.parametrize("vocabulary", [10_002, 10_003])  # the second cannot be dealt out to two cores
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("faster", [F.linear, module._few_by_many])
def test_a_long_table_meets_few_states_as_it_meets_many(vocabulary, rows, faster, monkeypatch):
    monkeypatch.setattr(module, "_FASTEST", {})
    monkeypatch.setattr(module, "_seconds", lambda way, *_: 1.0 if way is faster else 2.0)
    gemma = Gemma(GemmaConfig(vocabulary, width=8, layers=1, heads=1, head_width=4, mlp=8))
    states = torch.randn(rows, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = gemma.logits(states)
    plain = F.linear(states, gemma.tokens.weight)
    torch.testing.assert_close(logits, plain)
    assert list(module._FASTEST.values()) == ([faster] if rows < 40 else [])
    slopes = (torch.autograd.grad(out.square().mean(), states)[0] for out in (logits, plain))
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-6)


def test_hooks_of_light_modules_are_called():
    layer = Linear(2, 3)
    called = []
    hooks = [
        layer.register_forward_hook(lambda *_: called.append("after")),
        layer.register_forward_pre_hook(lambda *_: called.append("before")),
        layer.register_full_backward_hook(lambda *_: called.append("back")),
    ]
    for hook in hooks:
        layer(torch.randn(1, 2, requires_grad=True)).sum().backward()
        hook.remove()
    layer(torch.randn(1, 2)).sum().backward()
    assert called == ["before", "after", "back", "before", "back", "back"]


def test_a_row_that_has_ended_gets_padding(untaught):
    batch = PROCESSOR([PICTURE] * 2, ["caption en", "detect nose"])
    first = next(generate(untaught.model, batch, end=-1, limit=1)).ids
    written = [step.ids for step in generate(untaught.model, batch, end=int(first[0]), padding=0, limit=6)]
    assert all(int(ids[0]) == 0 for ids in written[1:])
    both = list(generate(untaught.model, batch.rows(slice(0, 1)), end=int(first[0]), limit=6))
    assert len(both) == 1, "nothing is computed once every row has ended"


def test_the_picture_is_looked_at_once(untaught, monkeypatch):
    looks = []
    vision = untaught.model.vision
    handle = vision.register_forward_hook(lambda *_: looks.append(1))
    untaught.caption(PICTURE, limit=5)
    handle.remove()
    assert len(looks) == 1


def test_the_cache_is_reserved_once(untaught):
    reading = CachedDecoder(untaught.model, PROCESSOR([PICTURE], ["caption en"]), room=7)
    memory = reading.cache.memory.data_ptr()
    length = reading.cache.filled
    for _ in range(7):
        reading.add(reading.logits.argmax(-1))
    assert reading.cache.memory.data_ptr() == memory and reading.cache.filled == length + 7
    language = SMALL.language
    assert reading.cache.bytes == 4 * 2 * language.layers * language.kv_heads * language.head_width * (length + 7)


def test_streaming_tells_the_same(untaught):
    for temperature in (0.0, 1.0):
        options = {"limit": 12, "temperature": temperature, "seed": 3}
        assert "".join(untaught.stream(PICTURE, "caption en", **options)) == untaught.caption(PICTURE, **options)


def test_the_seed_decides_what_is_drawn(untaught):
    said = [untaught.caption(PICTURE, temperature=1.0, seed=seed, limit=10) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_lists_in_lists_out_whatever_the_batches(untaught):
    pictures = [PICTURE, -PICTURE, PICTURE.flip(1)]
    alone = [untaught.caption(picture, limit=6) for picture in pictures]
    assert untaught.caption(pictures, limit=6) == alone == untaught.caption(pictures, limit=6, batch_size=2)


def test_maps_are_what_was_computed(untaught):
    batch = PROCESSOR([PICTURE] * 2, ["caption en", "answer en what animal is this?"], ["a cat", "a"])
    with torch.no_grad():
        plain = untaught.model.logits(batch)
        with record_attention_maps(untaught.model.language, cross_only=False) as layers:
            shown = untaught.model.logits(batch)
            maps = [layer.map for layer in layers.values()]
    assert torch.allclose(plain[batch.real], shown[batch.real], atol=1e-5)
    assert len(maps) == SMALL.language.layers
    assert torch.allclose(maps[0].sum(-1), torch.ones(()), atol=1e-5)
    assert not maps[0].masked_select(~prefix_lm_mask(batch.suffix, batch.real)[:, None]).any()


def test_several_questions_about_one_picture(untaught):
    """Rows share a picture that is looked at once."""
    batch = PROCESSOR([PICTURE] * 2, ["caption en", "detect nose"], ["a cat", "left"])
    with torch.no_grad():
        shared = untaught.model.losses(batch._replace(pictures=batch.pictures[:1]))
        assert torch.allclose(shared, untaught.model.losses(batch), atol=1e-6)


def test_words_of_gemma():
    """The real vocabulary, where it is at hand."""
    file = Path(os.environ.get("GEMMA_TOKENIZER", ""))
    if not file.is_file():
        pytest.skip("GEMMA_TOKENIZER names no tokenizer.json or tokenizer.json.gz of Gemma or PaliGemma")
    tokenizer = Tokenizer.from_file(file)
    assert (tokenizer.padding, tokenizer.end, tokenizer.start, tokenizer.image) == (0, 1, 2, 257_152)
    assert tokenizer("<loc0000><loc1023><seg000><seg127>") == [256_000, 257_023, 257_024, 257_151]
    text = "Where is the cat standing? 猫 🐈"
    assert tokenizer.decode(tokenizer(text)) == text
    assert tokenizer("\n") == [108]
    assert WORDS.decode(WORDS("a striped dog on a red background")) == "a striped dog on a red background"
