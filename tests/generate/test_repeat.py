"""A PNG remembers all that its image depends on, and the image comes back bit for bit."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from benchmarks import own_images
from helpers.generate import encode_png, generate, load_model, read_record, repeat
from helpers.generate.__main__ import main
from helpers.generate.settings import KEYWORD, READABLE


@pytest.mark.parametrize("case", own_images.CASES)
def test_an_image_is_repeated_byte_for_byte(case: str, folder: Path) -> None:
    assert own_images.is_repeated(folder, own_images.CASES[case])


def test_twenty_images_are_a_row_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(own_images.CASES) == 20
    monkeypatch.setattr(own_images, "CASES", {"a": [], "b": ["x"]})
    monkeypatch.setattr(own_images, "is_repeated", lambda _, arguments: bool(arguments))
    monkeypatch.setattr(own_images, "rows", list)  # of the other half, which trains
    monkeypatch.setattr(own_images, "paligemma2_rows", list)
    monkeypatch.setattr(own_images.doctor, "rows", list)
    monkeypatch.setattr(own_images.planted, "rows", list)
    (row,) = own_images.check()
    assert row.measured == "1 of 2" and not row.ok


@pytest.mark.parametrize("model", ["tiny_sd_own", "sd3"])
def test_an_image_does_not_depend_on_those_around_it(model: str) -> None:
    loaded = load_model(model)
    options = {"steps": 3, "sampler": "ddpm", "progress": False}
    together = generate(loaded, ["a cat", "a dog"], count=2, seed=5, **options)
    alone = [
        generate(loaded, prompt, seed=5 + i, **options)[0] for i, prompt in enumerate(["a cat"] * 2 + ["a dog"] * 2)
    ]
    assert [encode_png(image) for image in together] == [encode_png(image) for image in alone]
    assert len({image.tobytes() for image in together}) == 4


def test_it_takes_as_many_threads_as_then(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        (image,) = generate("sd1", "a cat", steps=2, progress=False)
        (folder / "two.png").write_bytes(encode_png(image))
        torch.set_num_threads(1)
        assert read_record("two.png").computation.threads == 2
        assert repeat("two.png", progress=False).same_bytes and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_settings_are_in_both_texts(folder: Path) -> None:
    main(["a dog", "--model", "sd1", "--steps", "2", "--negative-prompt", "blüe", "--init", "photo.jpg", "--seed", "9"])
    with Image.open("generated/sd1-a_dog-9.png") as image:
        text = image.text
    settings = json.loads(text[KEYWORD])["settings"]
    assert settings["prompt"] == "a dog" and settings["strength"] == 0.8 and settings["guidance_scale"] == 4.0
    assert settings["init_image"]["name"] == "photo.jpg" and "mask_image" not in settings
    assert text[READABLE].splitlines()[:2] == ["a dog", "Negative prompt: blüe"]
    assert "Steps: 2, Sampler: ddim, CFG scale: 4.0, Seed: 9, Size: 64x64, Model hash: " in text[READABLE]
    record = read_record("generated/sd1-a_dog-9.png")
    assert record.computation.torch == torch.__version__ and record.settings.width == 64


def test_folders_of_this_computer_are_not_written_into_the_png(folder: Path) -> None:
    init = str(folder / "photo.jpg")
    main(["a dog", "--model", "sd1", "--steps", "2", "--init", init])
    path = folder / "generated" / "sd1-a_dog-0.png"
    assert read_record(path).settings.init_image.name == "photo.jpg"
    assert str(folder).encode() not in path.read_bytes()
    assert repeat(path, progress=False).same_bytes  # found where the command runs


def test_another_initial_image_or_mask_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = ["--init", "photo.jpg", "--mask", "mask.png"]
    main(["a dog", "--model", "sd1", "--steps", "2", *inputs])
    path = "generated/sd1-a_dog-0.png"
    Image.new("RGB", (90, 90)).save("black.png")
    capsys.readouterr()
    assert main(["--again", path, "--init", "black.png", "--mask", "black.png"]) == 1
    assert "black.png is not the image that generated/sd1-a_dog-0.png was generated from" in capsys.readouterr().err
    Path("photo.jpg").rename("moved.jpg")
    assert main(["--again", path]) == 1
    assert "was generated from photo.jpg, which is neither here nor beside it: say where it is with --init" in (
        capsys.readouterr().err
    )
    assert main(["--again", path, "--init", "moved.jpg"]) == 0
    assert "byte for byte" in capsys.readouterr().out


def test_the_same_image_with_a_change(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = ["--init", "photo.jpg", "--mask", "mask.png", "--strength", "1"]
    main(["a dog", "--model", "sd3", "--steps", "4", "--seed", "7", "--shift", "2", *inputs])
    path = "generated/sd3-a_dog-7.png"
    before = read_record(path).settings
    assert main(["--again", path, "--steps", "2", "--count", "2", "--out", "changed"]) == 0
    first, second = (read_record(f"changed/sd3-a_dog-{seed}.png").settings for seed in (7, 8))
    assert first == replace(before, steps=2) and second == replace(first, seed=8)
    assert main(["a cat", "--again", path, "--seed", "0", "--out", "changed"]) == 0
    assert read_record("changed/sd3-a_cat-0.png").settings == replace(before, prompt="a cat", seed=0)
    Image.new("RGB", (120, 90)).save("photo.jpg")
    capsys.readouterr()
    assert main(["--again", path, "--steps", "2"]) == 1
    assert "photo.jpg is not the image that" in capsys.readouterr().err


def test_a_model_of_one_size_takes_changes_too(folder: Path) -> None:
    main(["cat", "--steps", "2"])
    assert main(["--again", "generated/tiny_sd_animals_128-cat-0.png", "--guidance-scale", "1"]) == 0
    assert read_record("generated/tiny_sd_animals_128-cat-0-2.png").settings.guidance_scale == 1


def edited(path: Path, **changes: object) -> Path:
    """A copy of a PNG with other entries in its settings or its computation; None takes one out."""
    with Image.open(path) as image:
        image.load()
        content = json.loads(image.text[KEYWORD])
        for name, value in changes.items():
            part = next((part for part in content.values() if isinstance(part, dict) and name in part), content)
            part[name] = value
        text = PngImagePlugin.PngInfo()
        text.add_text(KEYWORD, json.dumps(content))
        copy = path.with_name("edited.png")
        image.save(copy, pnginfo=text)
    return copy


@pytest.fixture
def cat(folder: Path) -> Path:
    (image,) = generate("tiny_sd_animals", "cat", steps=2, progress=False)
    path = folder / "cat.png"
    path.write_bytes(encode_png(image))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "0" * 64}, "the weights of tiny_sd_animals are not those that generated"),
        ({"model": "tiny_sd_lions"}, "was generated with tiny_sd_lions: there is no model 'tiny_sd_lions'"),
        ({"format": 2}, "format 2, this version of the course reads 1"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"settings": {"colour": 1}}, "unknown field 'colour'"),
        ({"settings": {}}, "missing 8 required positional arguments"),
        ({"sampler": "eular"}, "unknown sampler 'eular'"),
        ({"threads": 10**9}, "threads must be a whole number from 1 to 1024"),
        ({"width": 10**9}, "width must be a whole number from 1 to 16384"),
        ({"device": "meta"}, "unknown device 'meta'"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(
    cat: Path, changes: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--again", str(edited(cat, **changes))]) == 1
    assert message in capsys.readouterr().err


def test_what_differs_is_named(cat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--again", str(edited(cat, torch="2.0"))]) == 0
    assert f"but not its bytes. Computed with torch {torch.__version__} instead of 2.0." in capsys.readouterr().out
    assert main(["--again", str(edited(cat, seed=1))]) == 1
    out = capsys.readouterr().out
    assert "differs from" in out and "of 255." in out


def test_a_png_without_settings_is_no_image_to_repeat(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("plain.png")
    (folder / "text.png").write_text("no image")
    for name, message in (
        ("plain.png", "holds no settings of this course"),
        ("text.png", "is no PNG that can be read"),
        ("none.png", "no image at none.png"),
    ):
        assert main(["--again", name]) == 1
        assert message in capsys.readouterr().err
