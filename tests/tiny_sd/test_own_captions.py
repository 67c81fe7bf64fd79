"""Captions in anybody's words: tokens, and networks that are trained on them, fine-tuned with them and loaded anew."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from helpers.data import Faces, load_faces
from helpers.generate import generate, load_model
from helpers.tiny_sd.batches import Batches
from helpers.tiny_sd.codecs import PixelCodec
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.own_captions import LEAST_TOKENS, MOST_TOKENS, CaptionTokenizer
from helpers.tiny_sd.train import main, new_model, parse_options
from helpers.tiny_sd.unet import NO_CLASS
from helpers.training import step_generator
from helpers.weights import read_metadata
from tests.tiny_sd.conftest import SIZE

COLOURS = ("red", "blue", "lime", "yellow")
SHAPES = ("square", "circle")
CAPTIONS = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
COMMON = "--batch-size 8 --log-every 1 --sample-every 0 --precision fp32".split()
NETWORK = "--size 16 --widths 8 16".split()

pytestmark = pytest.mark.usefixtures("one_home")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Coloured shapes with captions in a table."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(80):
        caption = CAPTIONS[i % len(CAPTIONS)]
        _, colour, shape = caption.split()
        image = Image.new("RGB", (SIZE, SIZE), "grey")
        box = (*rng.integers(0, 4, 2).tolist(), *rng.integers(SIZE - 5, SIZE - 1, 2).tolist())
        draw = ImageDraw.Draw(image)
        (draw.rectangle if shape == "square" else draw.ellipse)(box, fill=colour)
        image.save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": caption})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def shapes(folder) -> Faces:
    return load_faces(str(folder), "train", SIZE, progress=False)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory) -> Path:
    """The weights of a training by the command, too short to learn much."""
    out = tmp_path_factory.mktemp("run")
    assert main([*COMMON, *NETWORK, "--source", str(folder), "--steps", "2", "--out", str(out)]) == 0
    return out / "weights.safetensors"


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def test_frequent_words_are_one_token_and_an_empty_caption_is_all_padding():
    tokenizer = CaptionTokenizer.train(CAPTIONS)
    assert tokenizer.length == LEAST_TOKENS, "room for rare words"
    rows = tokenizer(["a red square", "A  Red", "", " \n"])
    assert (rows > 0).sum(1).tolist() == [3, 2, 0, 0] and rows[0, :2].equal(rows[1, :2])
    assert int(rows.max()) < len(tokenizer)
    assert tokenizer.decode(rows[0]) == "a red square" and tokenizer.decode(rows[2]) == ""


@pytest.mark.parametrize("text", ["turquoise", "ein grünes Dreieck", "赤い円", "🟥", "<|endoftext|> red"])
def test_no_word_is_unknown(text):
    tokenizer = CaptionTokenizer.train(CAPTIONS)
    ids = tokenizer.encode(text)
    assert 0 < len(ids) <= tokenizer.length and 0 < min(ids) and max(ids) < len(tokenizer)
    if "<" not in text:
        assert tokenizer.decode(tokenizer([text])[0]) == text.lower()


def test_a_caption_that_is_too_long_is_cut_with_a_warning_that_names_what_was_lost():
    tokenizer = CaptionTokenizer(CaptionTokenizer.train(CAPTIONS).byte_pairs.merges, 3)
    with pytest.warns(UserWarning, match="hold 3 tokens, and this one has 5; its end was cut off: 'blue circle'"):
        rows = tokenizer(["a red square blue circle"])
    assert rows.equal(tokenizer(["a red square"]))


def test_training_captions_that_are_too_long_are_named_once():
    captions = ["red " * (MOST_TOKENS + 1), "blue " * (MOST_TOKENS + 9), "red blue"]
    with pytest.warns(UserWarning, match=f"2 of 3 captions have more than {MOST_TOKENS} tokens") as caught:
        tokenizer = CaptionTokenizer.train(captions)
    assert len(caught) == 1 and tokenizer.length == MOST_TOKENS


def test_a_description_restores_it():
    tokenizer = CaptionTokenizer.train(CAPTIONS)
    stored = json.dumps(tokenizer.describe())
    assert len(stored) < 1000
    restored = CaptionTokenizer.from_description(json.loads(stored))
    assert restored(CAPTIONS).equal(tokenizer(CAPTIONS)) and len(restored) == len(tokenizer)


# --- training ---------------------------------------------------------------------------------------------------------


def test_conditions_are_dropped_and_a_missing_caption_is_the_empty_one(shapes):
    tokenizer = CaptionTokenizer.train(shapes.captions)
    some = replace(shapes, captions=("", *shapes.captions[1:]))
    batches = Batches(some, 4000, p_drop_class=0.4, tokenizer=tokenizer)
    assert batches.captions.shape == (len(some), 1, LEAST_TOKENS) and not batches.captions[0].any()
    indices = batches.sample_indices(step_generator(0, 0))
    labels, captions = batches.sample_conditions(indices, step_generator(0, 1))
    no_class = labels == NO_CLASS
    no_caption = captions.sum(1) == 0
    missing = indices == 0
    assert no_caption[missing].all()
    assert no_class.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert no_caption[~missing].float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (no_class & no_caption)[~missing].float().mean().item() == pytest.approx(0.1, abs=0.03)
    kept = ~no_caption
    assert torch.equal(captions[kept], tokenizer(some.captions)[indices][kept])


def test_the_right_caption_predicts_an_image_better_than_a_wrong_one(shapes):
    """Learned in 150 steps, with a shift, since only high noise hides the colour: there the caption alone has it."""
    options = parse_options([*COMMON, *NETWORK, "--shift", "6"])
    model = new_model(options, shapes, PixelCodec())
    batches = Batches(shapes, 16, p_drop_class=0.4, tokenizer=model.tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for step in range(150):
        losses, _ = batches.losses(model, step_generator(0, step))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    latents = model.codec.encode(shapes.tensor(slice(0, 64)))
    right = model.tokenize(shapes.captions[:64])
    eps = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    t = torch.linspace(0.9, 1, 64)
    no_class = torch.full((64,), NO_CLASS)
    wrong = model.tokenize([_other_colour(caption) for caption in shapes.captions[:64]])
    model.eval()
    loss = []
    with torch.no_grad():
        for captions in (right, wrong, torch.zeros_like(right)):
            loss.append(model.losses(latents, eps, t, no_class, captions).mean().item())
    assert loss[0] < 0.7 * loss[1], "another colour"
    assert loss[0] < 0.7 * loss[2], "the empty caption, of every colour"


def _other_colour(caption: str) -> str:
    article, colour, shape = caption.split()
    return f"{article} {COLOURS[(COLOURS.index(colour) + 1) % len(COLOURS)]} {shape}"


def test_the_command_trains_on_captions_and_says_so(folder, trained):
    metadata = read_metadata(trained)
    assert metadata["captions"].startswith("72 of 72 images, 3 to 3 tokens, a vocabulary of ")
    assert "| captions | 72 of 72 images" in (trained.parent / "README.md").read_text()
    model = TinySD.from_weights(trained)
    assert model.tokenizer is not None and model.unet.config.vocab_size == len(model.tokenizer)
    assert model.unet.config.caption_length == LEAST_TOKENS


def test_a_grid_of_samples_has_a_row_for_each_of_a_few_captions(folder, trained, tmp_path):
    options = ["--start", str(trained), "--source", str(folder), "--steps", "1", "--sample-every", "1"]
    assert main([*COMMON, *options, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("samples-*.png")
    with Image.open(path) as image:
        assert image.width > 1.3 * image.height, "six rows of eight, with the captions beside them"


def test_captions_can_be_left_out(folder, tmp_path):
    options = ["--captions", "no", "--source", str(folder), "--steps", "1", "--out", str(tmp_path)]
    assert main([*COMMON, *NETWORK, *options]) == 0
    model = TinySD.from_weights(tmp_path / "weights.safetensors")
    assert model.tokenizer is None and not model.unet.config.vocab_size
    assert "--captions no" in read_metadata(tmp_path / "weights.safetensors")["command"]


# --- loading and generating -------------------------------------------------------------------------------------------


def test_weights_bring_their_tokenizer_and_generate_from_any_caption(trained):
    model = TinySD.from_weights(trained)
    for parameter in model.unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    images = model.generate(prompts=["a red square", "a turquoise hexagon", ""], steps=2, seed=3)
    assert images.shape == (3, 3, SIZE, SIZE)
    other = model.generate(prompts=["a blue square"], steps=2, seed=3)
    assert not torch.equal(images[:1], other)
    unconditional = model.generate(prompts=["a red square"], steps=2, guidance_scale=0, seed=5)
    torch.testing.assert_close(unconditional, images[2:], atol=1e-4, rtol=1e-3)  # the empty caption


def test_the_generate_command_takes_captions_and_warns_of_one_that_is_too_long(trained):
    model = load_model(trained)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (image,) = generate(model, "A RED square", steps=1, progress=False)
    assert image.size == (SIZE, SIZE)
    with pytest.warns(UserWarning, match="its end was cut off"):
        generate(model, "a red square " * 12, steps=1, progress=False)


def test_networks_without_such_captions_are_described_as_before(model):
    assert "tokenizer" not in model.describe()
    with pytest.raises(ValueError, match="tokens and the network"):
        TinySD(model.unet.config, "flow", ("a",), SIZE, PixelCodec(), tokenizer=CaptionTokenizer.train(CAPTIONS))


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def test_captions_are_added_to_a_network_without_them_at_first_without_effect(folder, shapes, tmp_path):
    start = ["--captions", "no", "--source", str(folder), "--steps", "2", "--out", str(tmp_path)]
    assert main([*COMMON, *NETWORK, *start]) == 0
    before = TinySD.from_weights(tmp_path / "weights.safetensors")
    options = parse_options([*COMMON, "--start", str(tmp_path / "weights.safetensors")])
    model = new_model(options, shapes, PixelCodec()).eval()
    assert model.tokenizer is not None
    x, t = torch.randn(2, 3, SIZE, SIZE), torch.tensor([0.3, 0.8])
    labels = torch.tensor([0, NO_CLASS])
    with torch.no_grad():
        expected = before.unet(x, t, labels)
        torch.testing.assert_close(model.unet(x, t, labels, model.tokenize(["a red square", ""])), expected)


def test_the_tokenizer_stays_with_the_network(trained, shapes, faces):
    options = parse_options([*COMMON, "--start", str(trained)])
    others = replace(shapes, captions=("quite another text",) * len(shapes))
    tokenizer = new_model(options, others, PixelCodec()).tokenizer
    assert tokenizer(CAPTIONS).equal(CaptionTokenizer.train(shapes.captions)(CAPTIONS))
    with pytest.raises(SystemExit, match="trained with captions, and these images have no captions"):
        new_model(options, replace(shapes, captions=None), PixelCodec())
    with pytest.raises(SystemExit, match="trained with captions, and these images have captions in other words"):
        new_model(options, faces, PixelCodec())
