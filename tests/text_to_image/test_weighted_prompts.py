"""Weights of words and long prompts: the syntax, the states, and the images of Stable Diffusion 1."""

import pytest
import torch

from helpers.sd1.pipeline import StableDiffusion1
from helpers.text_to_image.weighted_prompts import chunk_count, encode_weighted, parse_weights

LONG = "a cat with green eyes and " * 30 + "a blue background"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusion1:
    return StableDiffusion1.from_weights("sd1")


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", [("a cat", 1)]),
        ("", []),
        ("a (cat:1.3) here", [("a ", 1), ("cat", 1.3), (" here", 1)]),
        ("a (cat)", [("a ", 1), ("cat", 1.1)]),
        ("a [cat]", [("a ", 1), ("cat", 1 / 1.1)]),
        ("((cat))", [("cat", 1.1**2)]),
        ("(a (blue:2) cat:0.5)", [("a ", 0.5), ("blue", 1.0), (" cat", 0.5)]),
        ("(a:2)(b:2)", [("ab", 2)]),
        (r"a \(cat\) \[x\] \\", [("a (cat) [x] \\", 1)]),
        ("time: 12:30", [("time: 12:30", 1)]),
        ("(time: 12:30)", [("time: 12", 30)]),
        ("(cat: .5)", [("cat", 0.5)]),
        ("(cat:0)", [("cat", 0)]),
        ("(a:b)", [("a:b", 1.1)]),
    ],
)
def test_the_syntax(prompt, parts):
    if prompt == "(time: 12:30)":
        with pytest.raises(ValueError, match="between 0 and 10, got 30"):
            parse_weights(prompt)
        return
    assert [(part.text, pytest.approx(part.weight)) for part in parse_weights(prompt)] == parts


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a (cat", r"'\(' that nothing closes"),
        ("a cat)", r"'\)' that nothing opens"),
        ("a [cat)", r"'\)' that nothing opens"),
        ("(cat:-1)", "between 0 and 10, got -1"),
        ("(cat:11)", "between 0 and 10, got 11"),
    ],
)
def test_mistakes_are_told(prompt, message):
    with pytest.raises(ValueError, match=message):
        parse_weights(prompt)


def encode(pipeline, prompts, **options):
    return encode_weighted(prompts, pipeline.tokenizer, lambda ids: pipeline.text(ids), **options)


@torch.no_grad()
def test_a_short_prompt_without_weights_has_the_usual_states(pipeline):
    prompts = ["a grey dog", "a striped orange cat with green eyes"]
    assert encode(pipeline, prompts).equal(pipeline.encode_text(prompts))
    assert encode(pipeline, ["a (grey:1) dog"]).equal(pipeline.encode_text(["a grey dog"]))


@torch.no_grad()
def test_a_weight_moves_the_states_of_its_words_alone(pipeline):
    usual = pipeline.encode_text(["a grey dog"])
    empty = pipeline.encode_text([""])
    weighted = encode(pipeline, ["a (grey:1.5) dog"])
    position = 2  # start, a, grey
    expected = empty[0, position] + 1.5 * (usual[0, position] - empty[0, position])
    torch.testing.assert_close(weighted[0, position], expected)
    others = [index for index in range(usual.shape[1]) if index != position]
    torch.testing.assert_close(weighted[0, others], usual[0, others])
    torch.testing.assert_close(encode(pipeline, ["(a grey dog:0)"])[0, 1:4], empty[0, 1:4])


@torch.no_grad()
def test_a_long_prompt_is_encoded_to_its_end_in_chunks(pipeline):
    room = pipeline.tokenizer.length - 2
    count = chunk_count(LONG, pipeline.tokenizer)
    assert count > 1
    states = encode(pipeline, [LONG, "a grey dog"])
    assert states.shape[1] == count * pipeline.tokenizer.length
    words = pipeline.tokenizer.decode(
        [pipeline.tokenizer.ids[token] for token in pipeline.tokenizer.split(LONG)[room : 2 * room]]
    )
    second = states[:, pipeline.tokenizer.length : 2 * pipeline.tokenizer.length]
    torch.testing.assert_close(second, pipeline.encode_text([words, ""]))
    with pytest.raises(ValueError, match=f"needs {count} chunks"):
        encode(pipeline, [LONG], chunks=1)


def test_images_with_weights_differ_and_without_them_do_not(pipeline):
    def image(prompt, **more):
        return pipeline.generate(prompt, steps=3, seed=1, progress=False, **more)

    usual = image("a striped orange cat with green eyes")
    assert image("a striped orange cat with green eyes", weighted_prompts=True).equal(usual)
    assert not image("a striped (orange:2) cat with green eyes", weighted_prompts=True).equal(usual)


def test_long_prompts_and_negative_prompts_of_other_lengths_go_together(pipeline):
    image = pipeline.generate(
        LONG, "a [red] background", steps=2, progress=False, weighted_prompts=True, guidance_scale=4
    )
    assert image.isfinite().all()
    with pytest.raises(ValueError, match="nothing closes"):
        pipeline.generate("a (cat", steps=2, progress=False, weighted_prompts=True)
