"""T5's distances and tokenizer at the published length."""

import pytest
import torch

from helpers.text.t5 import T5Config, T5Tokenizer, learned_t5_tokenizer, relative_position_buckets


@pytest.mark.parametrize("length", [24, 256, 400])
def test_buckets_are_those_of_transformers(length):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    wanted = T5Attention._relative_position_bucket(distance, bidirectional=True, num_buckets=32, max_distance=128)
    assert torch.equal(relative_position_buckets(length, T5Config()), wanted)


def test_a_long_text_is_cut_and_the_reader_told():
    words = learned_t5_tokenizer(["a b c d e"], length=4)
    with pytest.warns(UserWarning, match="T5 was given 5 tokens and reads 3; the end was cut off: 'd e'"):
        ids = words(["a b c d e"])[0]
    assert ids[3] == words.end and len(ids) == 4
    assert words(["a"])[0].tolist() == [ids[0], words.end, words.padding, words.padding]


def test_padding_that_a_file_remembers_is_not_done_twice(tmp_path):
    words = learned_t5_tokenizer(["a b c d e"], length=6)
    words.tokenizer.enable_padding(length=6)
    words.tokenizer.enable_truncation(2)
    words.tokenizer.save(str(tmp_path / "tokenizer.json"))
    words.tokenizer.no_padding(), words.tokenizer.no_truncation()
    assert torch.equal(T5Tokenizer.from_file(tmp_path, 6)(["a b c"]), words(["a b c"]))
