"""T5's distances and tokenizer at the published length."""

import pytest
import torch

from helpers.text.t5 import T5Config, T5Tokenizer, relative_position_buckets, train_t5_tokenizer


@pytest.mark.parametrize("length", [24, 256, 400])
def test_buckets_are_those_of_transformers(length):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    expected = T5Attention._relative_position_bucket(distance, bidirectional=True, num_buckets=32, max_distance=128)
    assert torch.equal(relative_position_buckets(length, T5Config()), expected)


def test_a_long_text_is_truncated_with_a_warning():
    tokenizer = train_t5_tokenizer(["a b c d e"], length=4)
    with pytest.warns(UserWarning, match="a prompt for T5 holds 3 tokens, this one has 5; its end was cut off: 'd e'"):
        ids = tokenizer(["a b c d e"])[0]
    assert ids[3] == tokenizer.eos_id and len(ids) == 4
    assert tokenizer(["a"])[0].tolist() == [ids[0], tokenizer.eos_id, tokenizer.pad_id, tokenizer.pad_id]


def test_padding_that_a_file_remembers_is_not_done_twice(tmp_path):
    tokenizer = train_t5_tokenizer(["a b c d e"], length=6)
    tokenizer.tokenizer.enable_padding(length=6)
    tokenizer.tokenizer.enable_truncation(2)
    tokenizer.tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer.tokenizer.no_padding()
    tokenizer.tokenizer.no_truncation()
    assert torch.equal(T5Tokenizer.from_file(tmp_path, 6)(["a b c"]), tokenizer(["a b c"]))
