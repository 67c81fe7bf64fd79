"""Training on examples of one's own: the JSONL file, its errors, and the command that trains on it."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.vlm.own_examples import load_own_examples, read_examples
from helpers.vlm.pipeline import PaliGemma
from helpers.vlm.train import main as train
from helpers.weights import read_metadata

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


def write_examples(folder: Path, images: int = 20) -> Path:
    """Images of one colour each, and two examples about each: `examples.jsonl`."""
    lines = []
    (folder / "photos").mkdir(parents=True)
    for i in range(images):
        colour = list(COLOURS)[i % 3 % 2]
        Image.new("RGB", (40, 30), COLOURS[colour]).save(folder / "photos" / f"{i}.png")
        for prefix, suffix in (("colour", colour), ("detect paint", "<loc0000><loc0000><loc1023><loc1023> paint")):
            lines.append({"image": f"photos/{i}.png", "prefix": prefix, "suffix": suffix, "name": f"image {i}"})
    file = folder / "examples.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return file


def test_every_image_is_decoded_once_and_every_tenth_is_held_out(tmp_path):
    data = load_own_examples(write_examples(tmp_path), 16)
    assert len(data.examples) == 40 and data.images.shape == (20, 3, 16, 16)
    assert data.examples[1][2:] == ("detect paint", "<loc0000><loc0000><loc1023><loc1023> paint")
    red = torch.tensor(COLOURS["red"]) / 127.5 - 1
    torch.testing.assert_close(data.pixels(torch.tensor([1]))[0, :, 8, 8], red)
    training, held_out = data.split()
    assert {example.image.name for example in held_out.examples} == {"9.png", "19.png"}
    assert len(training.examples) == 36 and len(held_out.examples) == 4
    for part in (training, held_out):
        stored = Image.open(part.examples[-1].image).getpixel((0, 0))
        pixel = (part.pixels(torch.tensor([-1]))[0, :, 0, 0] + 1) * 127.5
        torch.testing.assert_close(pixel, torch.tensor(stored).float())


def test_few_images_are_all_trained_on(tmp_path):
    training, held_out = load_own_examples(write_examples(tmp_path, images=9), 16).split()
    assert len(training.examples) == 18 and not held_out.examples


def test_a_byte_order_mark_and_unusual_line_separators(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    line = json.dumps({"image": "a.png", "prefix": "", "suffix": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "x.jsonl").write_text(f"\ufeff{line}\r\n{line}", encoding="utf-8")
    assert [example[2:] for example in read_examples(tmp_path / "x.jsonl")] == [("", "one\u2028two")] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png"', r"1 of 2 are wrong:\nline 2: this is not JSON \(.*\): '{\"image\": \"a.png\"'"),
        ("[1]", r"line 2: this should be {\"image\": ..., \"prefix\": ..., \"suffix\": ...}, not '\[1\]'"),
        ('{"image": "a.png", "text": ""}', "line 2: it has no prefix and no suffix, only image, text"),
        ('{"image": "a.png", "prefix": "", "suffix": 3}', "line 2: suffix should be a text, not 3"),
        ('{"image": "b.png", "prefix": "", "suffix": ""}', "line 2: there is no image .*b.png"),
        ('{"image": "x.jsonl", "prefix": "", "suffix": ""}', "line 2: .*x.jsonl cannot be used as an image"),
    ],
)
def test_a_line_that_cannot_be_used(tmp_path, line, message):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    good = '{"image": "a.png", "prefix": "", "suffix": ""}'
    (tmp_path / "x.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match=message):
        load_own_examples(tmp_path / "x.jsonl", 16)


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match="name a JSONL file, with the fields image, prefix, suffix"):
        read_examples(tmp_path)
    file = tmp_path / "x.jsonl"
    file.write_text("\n")
    with pytest.raises(ValueError, match="has no lines"):
        read_examples(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        read_examples(file)
    file.write_text("?\n" * 20)
    with pytest.raises(ValueError, match=r"20 of 20 are wrong:\n(line \d: .*\n){6}and 14 more"):
        read_examples(file)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """The JSONL file, and weights that were trained on it from scratch."""
    folder = tmp_path_factory.mktemp("own")
    file = write_examples(folder)
    weights = folder / "own.safetensors"
    options = ["--steps", "45", "--batch-size", "8", "--learning-rate", "3e-3", "--ema", "0.8", "--sample-every", "45"]
    arguments = ["--source", str(file), *options, "--out", str(folder / "run"), "--export", str(weights)]
    assert train(arguments) == 0
    return file, weights


def test_the_command_learns_the_examples(trained):
    _, weights = trained
    assistant = PaliGemma.from_weights(weights, masks=None)
    assert assistant.tasks == ("colour", "detect")
    images = [Image.new("RGB", (50, 50), colour) for colour in COLOURS.values()]
    assert assistant.generate(images, ["colour", "colour"]) == list(COLOURS)
    (box,) = assistant.detect(images[0], "paint")
    assert box.name == "paint" and tuple(box.box) == (0, 0, 1, 1)
    assert read_metadata(weights)["source"] == "examples.jsonl"
    with pytest.raises(ValueError, match="unknown task 'caption': this model was trained on colour, detect"):
        assistant.caption(images[0])


def test_held_out_answers_are_counted(trained, tmp_path, capsys):
    file, weights = trained
    options = ["--steps", "1", "--batch-size", "2", "--learning-rate", "1e-6", "--sample-every", "1"]
    second = tmp_path / "second.safetensors"
    arguments = ["--source", str(file), "--start", str(weights), *options, "--out", str(tmp_path / "run")]
    assert train([*arguments, "--export", str(second)]) == 0
    assert "4 of 4 answers about held-out images are exactly right" in capsys.readouterr().out
    assert read_metadata(second)["start_sha256"] == read_metadata(weights)["sha256"]


def test_an_unknown_word_stops_fine_tuning_before_it_begins(trained, tmp_path):
    file, weights = trained
    line = {"image": str(file.parent / "photos" / "0.png"), "prefix": "colour", "suffix": "green"}
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(line))
    with pytest.raises(SystemExit, match="--source: this model's vocabulary does not contain 'green'"):
        train(["--source", str(other), "--start", str(weights), "--out", str(tmp_path / "run")])


def test_a_file_that_is_not_there_stops_the_command(tmp_path):
    with pytest.raises(SystemExit, match="--source: no file .*absent.jsonl"):
        train(["--source", str(tmp_path / "absent.jsonl"), "--out", str(tmp_path / "run")])
