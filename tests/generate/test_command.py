"""The command as people use it: files, seeds, grids, animations, and messages that say what to do."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, ImageSequence

from helpers.files import write_new
from helpers.generate import encode_png, generate, load_model, read_record
from helpers.generate.__main__ import main
from helpers.generate.inputs import read_inputs
from helpers.generate.output import GAP, tile

FAST = ["--model", "tiny_sd_own", "--steps", "2"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "generated").iterdir())


def test_models_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 9 and len({len(re.match(r"\w+ +", line)[0]) for line in lines[:-1]}) == 1
    assert any(
        re.match(r"tiny_sd_animals +Tiny.*photographs, 64 pixels; prompts: cat, dog, wild$", line) for line in lines
    )
    assert any(
        re.match(r"sd3 +Stable Diffusion 3; synthetic faces, 64 pixels; prompts: captions$", line) for line in lines
    )


def test_nothing_is_overwritten(folder: Path) -> None:
    for _ in range(3):
        assert main(["a cat", *FAST]) == 0
    assert names(folder) == ["tiny_sd_own-a_cat-0-2.png", "tiny_sd_own-a_cat-0-3.png", "tiny_sd_own-a_cat-0.png"]
    with pytest.raises(TypeError):
        write_new(folder, "x", ".png", "no bytes")  # type: ignore[arg-type]
    assert not (folder / "x.png").exists(), "nothing is left of a file that could not be written"


def seeds(folder: Path) -> list[tuple[str, int]]:
    settings = [read_record(path).settings for path in (folder / "generated").glob("*.png")]
    return sorted((each.prompt, each.seed) for each in settings)


def test_seeds_go_on_from_prompt_to_prompt_or_begin_anew(folder: Path) -> None:
    main(["a cat", "a dog", *FAST, "--count", "2", "--seed", "5"])
    assert seeds(folder) == [("a cat", 5), ("a cat", 6), ("a dog", 7), ("a dog", 8)]
    main(["a cat", "a dog", *FAST, "--count", "2", "--seed", "5", "--same-seed", "--out", "same/generated"])
    assert seeds(folder / "same") == [("a cat", 5), ("a cat", 6), ("a dog", 5), ("a dog", 6)]
    for _ in range(2):
        main(["a cat", *FAST, "--seed", "random", "--out", "random/generated"])
    assert len(set(seeds(folder / "random"))) == 2


def test_prompts_come_from_a_file(folder: Path) -> None:
    Path("prompts.txt").write_text("\ufeff# three animals\na cat\n\n  a dog  \r\n", encoding="utf-8")
    assert main(["a wild animal", "--prompts-file", "prompts.txt", *FAST]) == 0
    assert [prompt for prompt, _ in seeds(folder)] == ["a cat", "a dog", "a wild animal"]


def test_a_grid_has_a_row_for_each_prompt(folder: Path) -> None:
    main(["a cat", "a dog", *FAST, "--count", "3", "--grid"])
    with Image.open("generated/tiny_sd_own-2_prompts-grid.png") as grid:
        assert grid.size == (3 * 128 + 2 * GAP, 2 * 128 + GAP)
    with Image.open("generated/tiny_sd_own-a_dog-5.png") as last:
        enlarged = last.resize((128, 128), Image.Resampling.LANCZOS)
    with Image.open("generated/tiny_sd_own-2_prompts-grid.png") as grid:
        assert grid.crop((2 * (128 + GAP), 128 + GAP, *grid.size)).tobytes() == enlarged.tobytes()


def test_large_images_are_not_enlarged() -> None:
    images = [Image.new("RGB", (200, 100), "red")] * 3
    assert tile(images, 2).size == (400 + GAP, 200 + GAP)


def test_an_animation_goes_from_noise_to_the_image(folder: Path) -> None:
    main(["a cat", "--model", "tiny_sd_own", "--steps", "6", "--count", "2", "--animation"])
    with Image.open("generated/tiny_sd_own-a_cat-animation.webp") as animation:
        frames = [np.array(frame.convert("RGB"), dtype=float) for frame in ImageSequence.Iterator(animation)]
    with Image.open("generated/tiny_sd_own-a_cat-0.png") as image:
        final = np.array(image.resize((128, 128), Image.Resampling.LANCZOS), dtype=float)
    distances = [np.abs(frame[:, :128] - final).mean() for frame in frames]
    assert len(frames) == 6 and frames[0].shape == (128, 256 + GAP, 3)
    assert distances[-1] < 5 < 20 < distances[0]


def test_the_animation_changes_no_image(folder: Path) -> None:
    main(["a cat", *FAST])
    main(["a cat", *FAST, "--animation"])
    assert (
        Path("generated/tiny_sd_own-a_cat-0.png").read_bytes()
        == Path("generated/tiny_sd_own-a_cat-0-2.png").read_bytes()
    )


def test_the_initial_image_is_turned_cropped_and_resized(folder: Path) -> None:
    with Image.open("photo.jpg") as stored:
        assert stored.size == (90, 120)
        upright = ImageOps.exif_transpose(stored).crop((15, 0, 105, 90)).resize((64, 64), Image.Resampling.BICUBIC)
    inputs = read_inputs("photo.jpg", None, 64, 64)
    expected = torch.from_numpy(np.array(upright)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(inputs.init, expected, atol=3 / 127.5, rtol=0)
    main(["a cat", "--model", "sd1", "--init", "photo.jpg", "--strength", "0", "--size", "96x72"])
    with Image.open("generated/sd1-a_cat-0.png") as image:
        assert image.size == (96, 72)
        expected = ImageOps.fit(ImageOps.exif_transpose(Image.open("photo.jpg")), (96, 72))
        difference = np.abs(np.array(image, dtype=float) - np.array(expected, dtype=float)).mean()
    assert difference < 12, "at strength 0 the autoencoder alone changes the image"


def test_only_what_the_mask_shows_is_generated_anew(folder: Path) -> None:
    main(["a cat", "--model", "sd1", "--init", "photo.jpg", "--mask", "mask.png", "--steps", "3", "--strength", "1"])
    inputs = read_inputs("photo.jpg", "mask.png", 64, 64)
    with Image.open("generated/sd1-a_cat-0.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1
    kept = inputs.mask == 0
    assert 0.5 < kept.float().mean() < 0.95
    torch.testing.assert_close(pixels[:, kept], inputs.init[:, kept], atol=0.6 / 127.5, rtol=0)
    assert (pixels - inputs.init)[:, inputs.mask == 1].abs().mean() > 0.1


def test_noise_levels_and_churn_are_repeated_from_the_image(folder: Path, capsys: pytest.CaptureFixture) -> None:
    common = ["a cat", "--model", "sd1", "--sampler", "euler", "--steps", "3"]
    assert main([*common, "--sigmas", "karras", "--churn", "2"]) == 0
    assert main([*common, "--sigmas", "14.6, 3,.5"]) == 0
    assert main(common) == 0
    paths = [Path("generated") / f"sd1-a_cat-0{number}.png" for number in ("", "-2", "-3")]
    assert len({path.read_bytes() for path in paths}) == 3
    settings = [read_record(path).settings for path in paths]
    assert [(each.sigmas, each.churn, each.steps) for each in settings] == [
        ("karras", 2.0, 3),
        ("14.6,3.0,0.5", None, 3),
        (None, None, 3),
    ]
    for path in paths[:2]:
        assert main(["--again", str(path)]) == 0
        assert "byte for byte" in capsys.readouterr().out


def test_noise_levels_that_cannot_be_are_refused(folder: Path, capsys: pytest.CaptureFixture) -> None:
    for options, message in (
        ("--sigmas karas", "choose karras, exponential"),
        ("--sigmas 20,1", "at most 14.615"),
        ("--sampler ddim --churn 1", "the sampler ddim has no churn"),
    ):
        assert main(["a cat", "--model", "sd1", "--steps", "2", *options.split()]) == 1
        assert message in capsys.readouterr().err
    assert main(["cat", "--model", "tiny_sd_animals", "--churn", "1"]) == 1
    assert "tiny_sd_animals takes no churn; Stable Diffusion 1 and Stable Diffusion 3 do" in capsys.readouterr().err


def test_in_python_it_is_three_lines() -> None:
    images = generate("tiny_sd_animals", "cat", count=2, seed=3, steps=2, progress=False)
    assert [image.size for image in images] == [(64, 64)] * 2 and all(
        isinstance(image, Image.Image) for image in images
    )
    loaded = load_model("tiny_sd_animals")
    assert generate(loaded, ["cat"], seed=4, steps=2, progress=False)[0].tobytes() == images[1].tobytes()
    expected = loaded.network.generate(["cat"], seed=4, steps=2, guidance_scale=7)
    assert np.abs(np.array(images[1], dtype=int) - ((expected[0].permute(1, 2, 0) + 1) * 127.5).numpy()).max() < 1


def test_numbers_of_numpy_are_numbers() -> None:
    options = {"steps": np.int64(2), "guidance_scale": np.float64(4), "seed": np.int64(3)}
    (image,) = generate("sd1", "a cat", clip_skip=np.int64(0), progress=False, **options)
    (same,) = generate("sd1", "a cat", steps=2, seed=3, progress=False)
    assert encode_png(image) == encode_png(same)


def test_a_pil_image_can_be_the_initial_image(folder: Path) -> None:
    with Image.open("photo.jpg") as photo:
        (from_image,) = generate("sd1", "a cat", init_image=photo, steps=2, progress=False)
    (from_file,) = generate("sd1", "a cat", init_image="photo.jpg", steps=2, progress=False)
    assert from_image.tobytes() == from_file.tobytes()
    (folder / "unnamed.png").write_bytes(encode_png(from_image))
    assert main(["--again", "unnamed.png"]) == 1
    assert main(["--again", "unnamed.png", "--init", "photo.jpg"]) == 0


def test_words_that_a_model_never_saw_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["a grean cat", "--model", "sd3", "--steps", "1"])
    error = capsys.readouterr().err
    assert "warning: sd3 was trained on captions of synthetic faces: unknown word 'grean'" in error
    assert "Did you mean 'green'?" in error
    main(["a green cat", "--model", "sd3", "--steps", "1"])
    assert "warning" not in capsys.readouterr().err


def test_any_class_is_the_empty_prompt(folder: Path) -> None:
    assert main(["", "--steps", "2"]) == 0 and names(folder) == ["tiny_sd_animals_128-any-0.png"]


def test_images_of_photographs_weights_come_with_their_licence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["cat", "--steps", "2"])
    assert "non-commercial use only" in capsys.readouterr().out
    assert "non-commercial" in read_record("generated/tiny_sd_animals_128-cat-0.png").computation.licence


# --- what goes wrong --------------------------------------------------------------------------------------------------

BAD = [
    (
        "lion",
        "was trained without captions, its prompts are classes: cat, dog, wild, or '' for any of them; got 'lion'",
    ),
    ("'a grey cat'", "Did you mean 'cat'?"),
    ("'a grean cat' --model tiny_sd_own", "unknown word 'grean'.*Did you mean 'green'?"),
    (
        "cat --negative-prompt dog",
        "tiny_sd_animals_128 takes no negative prompt; Stable Diffusion 1 and Stable Diffusion 3 do",
    ),
    ("cat --size 32", "tiny_sd_animals_128 takes no other size"),
    ("cat --init photo.jpg", "tiny_sd_animals_128 takes no initial image"),
    ("cat --model sd1 --shift 2", "sd1 takes no shift; Stable Diffusion 3 does"),
    ("cat --sampler eular", "unknown sampler 'eular': choose one of ddpm, ddim"),
    ("cat --model tiny_sd_animal", "there is no model 'tiny_sd_animal'.*Did you mean tiny_sd_animals?"),
    ("cat --model clip", "there is no model 'clip'"),
    ("cat --model mask.png", "mask.png is no checkpoint the course can read"),
    ("cat --model .", "is no complete folder of weights"),
    ("cat --model CLIP", "holds weights of the course that generate no images"),
    ("cat --model sd1 --strength 0.5", "there is no initial image"),
    ("cat --model sd1 --mask mask.png", "a mask needs an initial image"),
    ("cat --model sd1 --init none.jpg", "the initial image none.jpg: there is no such file"),
    ("cat --model sd1 --init prompts.txt", "the initial image prompts.txt: this is no image"),
    ("cat --model sd1 --init half.jpg", "the initial image half.jpg: it cannot be read to its end"),
    ("cat --model sd1 --init photo.jpg --mask small.png", "the mask is 9x9 pixels and the initial image 120x90"),
    ("cat --model sd1 --size 65", "must be a multiple of 4 pixels, got 65"),
    ("cat --model sd3 --size 1000", "must be at most 192 pixels, got 1000"),
    ("cat --model sd1 --clip-skip 9", "clip_skip must be a whole number from 0 to 3, got 9"),
    ("cat --model sd1 --guidance-scale 2000", "guidance_scale must be a number from 0 to 1000"),
    ("cat --seed 9223372036854775807", "seed must be a whole number"),
    ("cat --precision bf16", "precision is for published checkpoints"),
    ("", "there is no prompt: give one, such as cat, or a --prompts-file"),
    ("--prompts-file none.txt", "the file of prompts none.txt cannot be read"),
    ("--prompts-file prompts.txt", "the file of prompts prompts.txt holds no prompt"),
    ("--prompts-file photo.jpg", "the file of prompts photo.jpg is no text in UTF-8"),
    ("--again photo.jpg", "photo.jpg is no PNG that can be read"),
    ("--again photo.jpg --steps 3", "photo.jpg is no PNG that can be read"),
    ("--again photo.jpg --precision bf16", "--again computes as its image was computed: leave out --precision"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_bad_input_is_refused_before_any_work(
    line: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    from helpers.weights import weights_path

    Path("prompts.txt").write_text("# nothing\n\n")
    Path("half.jpg").write_bytes(Path("photo.jpg").read_bytes()[:1500])
    Image.new("L", (9, 9), 255).save("small.png")
    arguments = [str(weights_path("clip")) if part == "CLIP" else part for part in shlex.split(line)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), error) and error.startswith("error: ")
    assert error.count("\n") == 1 and not (folder / "generated").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat --steps 0", "argument --steps: must be at least 1, got 0"),
        ("cat --count x", "argument --count: must be a whole number, got 'x'"),
        ("cat --seed dice", "argument --seed: must be a whole number, got 'dice'"),
        ("cat --size 64x", "argument --size: must be a whole number, got ''"),
        ("cat --strength 2", "argument --strength: must lie between 0 and 1, got 2"),
    ],
)
def test_bad_options_are_named(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named_first(folder: Path) -> None:
    with pytest.raises(SystemExit, match="choose another --out"):
        main(["cat", "--out", "photo.jpg/generated"])


def test_ctrl_c_keeps_the_images_so_far(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import helpers.generate.__main__ as command

    def interrupted(*arguments, **options):
        images = generate_all(*arguments, **options)
        yield next(images)
        raise KeyboardInterrupt

    generate_all = command.generate_all
    monkeypatch.setattr(command, "generate_all", interrupted)
    assert main(["a cat", *FAST, "--count", "3"]) == 130
    assert names(folder) == ["tiny_sd_own-a_cat-0.png"] and os.path.getsize("generated/tiny_sd_own-a_cat-0.png") > 100


def test_an_unknown_option_in_python_is_named() -> None:
    with pytest.raises(TypeError, match="there is no option 'step'; options: steps, guidance_scale"):
        generate("tiny_sd_animals", "cat", step=3)
    with pytest.raises(ValueError, match="there is no prompt"):
        generate("tiny_sd_animals", [])
    with pytest.raises(ValueError, match="count must be a whole number from 1 to .*, got 0"):
        generate("tiny_sd_animals", "cat", count=0)
    with pytest.raises(ValueError, match="width must be a whole number from 1 to .*, got 0"):
        generate("sd1", "a cat", width=0)
    with pytest.raises(ValueError, match="unknown precision 'fp8'"):
        load_model("sd1", precision="fp8")
