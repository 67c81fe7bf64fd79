"""The command as people use it: answers, captions, boxes and masks of the shipped model, and what goes wrong."""

import io
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import own_images
from helpers.ask import ask, example_image, load_model
from helpers.ask.__main__ import main, split_arguments
from helpers.ask.answers import Sampling, check_request, to_prompt
from helpers.ask.images import open_image
from helpers.ask.models import Model
from helpers.ask.output import KEYWORD, READABLE
from helpers.data.captions import caption
from helpers.data.drawing import attributes_of
from helpers.data.toy_faces import face_boxes, face_mask
from helpers.vlm.boxes import Box
from helpers.vlm.export import to_transformers
from helpers.vlm.pipeline import PaliGemma

FACES = attributes_of("val", 8, seed=0)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test, with photo.jpg in it."""
    own_images.write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_arguments_it_shows_what_it_can(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert caption(FACES[0]) in out and f"what colour is the fur? {FACES[0].fur}" in out
    assert "synthetic face: answers/example_0.png" in err and "python -m helpers.ask photo.jpg" in err
    written = {path.name for path in Path("answers").iterdir()}
    assert {"example_0.png", "example_0-segment_face.png", "example_0-segment_face-mask.png"} <= written
    assert all(f"answers/{name}" in out for name in written - {"example_0.png"})


def test_one_answer_stands_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--example", "7", "What colour are the eyes?"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{FACES[7].eyes}\n" and "warning" not in err
    assert main(["answers/example_7.png"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{caption(FACES[7])}\n" and err == "", "without a question it is described; examples are known"
    assert [path.name for path in Path("answers").iterdir()] == ["example_7.png"], "and not written again"


def test_of_several_answers_each_says_what_it_is_about(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = ["what colour is the fur?", "--caption"]
    assert main(["--example", "1", "--example", "2", *questions]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"answers/example_1.png, what colour is the fur? {FACES[1].fur}"
    assert lines[3] == f"answers/example_2.png, caption en: {caption(FACES[2])}" and len(lines) == 4


def test_boxes_are_pixels_and_the_drawing_remembers_its_prompt(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--example", "3", "--detect", "left eye;nose", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["prompt"] == "detect left eye ; nose" and record["size"] == [64, 64] and record["masks"] == []
    for each in record["objects"]:
        target = Box(*face_boxes(FACES[3])[each["name"]])
        assert Box(*(side / 64 for side in each["box"])).iou(target) > 0.5
    assert [each["name"] for each in record["objects"]] == ["left eye", "nose"]
    with Image.open(record["drawing"]) as drawing:
        assert drawing.size == (512, 512), "letters need room"
        assert drawing.text[READABLE].splitlines()[0] == record["prompt"]
        assert json.loads(drawing.text[KEYWORD]) == {
            key: value for key, value in record.items() if key not in ("drawing", "masks")
        }


def test_a_mask_is_drawn_and_written_as_an_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--example", "5", "--segment", "face", "--out", "new/folder"]) == 0
    with Image.open("new/folder/example_5-segment_face-mask.png") as image:
        mask = np.array(image) == 255
    truth = face_mask(FACES[5])
    assert (mask & truth).sum() / (mask | truth).sum() > 0.8
    assert f"its mask covers {mask.mean():.0%} of the image" in capsys.readouterr().out
    with Image.open("new/folder/example_5-segment_face.png") as drawing:
        changed = np.abs(np.array(drawing, int) - np.array(example_image(5).resize((512, 512)), int)).max(2) > 30
    enlarged = np.array(Image.fromarray(mask).resize((512, 512)))
    assert changed[enlarged].mean() > 0.5 and changed[~enlarged].mean() < 0.15


def test_the_help_says_how_many_words_the_model_knows(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert f"and {len(model.assistant.tokenizer.known_words())} words, which the error message lists" in help_text


def test_nothing_is_overwritten(folder: Path) -> None:
    for _ in range(2):
        assert main(["--segment", "face"]) == 0
    names = sorted(path.name for path in Path("answers").iterdir())
    first = ["example_0-segment_face-2.png", "example_0-segment_face-mask-2.png", "example_0-segment_face-mask.png"]
    assert names == [*first, "example_0-segment_face.png", "example_0.png"]


def test_about_photographs_the_shipped_model_says_that_it_guesses(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["photo.jpg", "is this a cat?"]) == 0
    out, err = capsys.readouterr()
    assert out in ("yes\n", "no\n") and err.count("\n") == 1
    assert "warning: paligemma was trained on synthetic faces alone" in err


def test_objects_that_it_never_learned_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--detect", "nose; tongue", "--segment", "nose"]) == 0
    err = capsys.readouterr().err
    assert "what it answers to detect tongue is a guess" in err and "what it answers to segment nose is a guess" in err


def test_an_image_is_turned_as_its_camera_was_held(folder: Path) -> None:
    upright = example_image(4)
    exif = Image.Exif()
    exif[274] = 6  # the camera was held a quarter turn to the left
    upright.transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    opened = open_image("turned.png")
    assert opened.image.tobytes() == upright.tobytes() and not opened.is_example
    with pytest.warns(UserWarning, match="trained on synthetic faces alone"):
        (turned,) = ask("paligemma", opened.image, "detect nose", progress=False)
    (straight,) = ask("paligemma", upright, "detect nose", progress=False)
    assert turned.text == straight.text


def test_on_a_terminal_the_text_appears_as_it_is_generated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        flushed: list[str] = []

        def isatty(self) -> bool:
            return True

        def flush(self) -> None:
            self.flushed.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main(["--caption", "is this a cat?"]) == 0
    assert sys.stdout.getvalue() == f"is this a cat? {'no' if FACES[0].species != 'cat' else 'yes'}\ncaption en: " + (
        f"{caption(FACES[0])}\n"
    )
    assert len(set(Terminal.flushed)) > len(caption(FACES[0]).split())


def test_in_python_it_is_three_lines(model: Model) -> None:
    answers = ask(model, [example_image(1), example_image(2)], ["caption", "detect nose"], progress=False)
    assert [answer.prompt for answer in answers] == ["caption en", "detect nose"] * 2
    assert [answer.text for answer in answers[::2]] == [caption(face) for face in FACES[1:3]]
    (name, (left, top, right, bottom)) = answers[1].boxes()[0]
    assert name == "nose" and 0 < left < right < 64 and 0 < top < bottom < 64
    assert answers[1].draw().size == (512, 512) and answers[1].masks() == []


def test_sampling_depends_on_the_seed_alone(model: Model) -> None:
    options = {"temperature": 2.0, "max_tokens": 12, "progress": False}
    texts = [ask(model, example_image(1), "caption", seed=seed, **options)[0].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_published_weights_are_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assistant = PaliGemma.from_weights()
    to_transformers(assistant, folder / "published")
    assert main(["--example", "2", "--caption", "--model", "published"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{caption(FACES[2])}\n" and "loading published" in err
    assert main(["photo.jpg", "--model", "published", "--detect", "tongue", "--precision", "bf16"]) == 0
    assert "warning" not in capsys.readouterr().err, "nobody knows what it was trained on"
    assert main(["photo.jpg", "--model", "published", "--segment", "face"]) == 1
    assert "masks need the decoder of <seg> tokens" in capsys.readouterr().err


def test_a_training_is_its_folder_or_its_weights(folder: Path) -> None:
    from helpers.weights import weights_path

    (folder / "run").mkdir()
    (folder / "run" / "weights.safetensors").write_bytes(weights_path("paligemma").read_bytes())
    for source in ("run", "run/weights.safetensors"):
        loaded = load_model(source)
        assert loaded.assistant.tasks and loaded.name == source


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "prompt"),
    [
        ("is this a cat?", "answer en is this a cat?"),
        ("  two \n words ", "answer en two words"),
        ("caption", "caption en"),
        ("caption fr", "caption fr"),
        ("answer fr oui ?", "answer fr oui ?"),
        ("answer the question", "answer en answer the question"),
        ("detect a;b ;c", "detect a ; b ; c"),
        ("segment face", "segment face"),
        ("describe en", "describe en"),
        ("ocr", "ocr"),
    ],
)
def test_a_question_becomes_a_prompt(question: str, prompt: str) -> None:
    assert to_prompt(question) == prompt


def test_tasks_of_a_training_of_ones_own_are_prompts(model: Model) -> None:
    assistant = PaliGemma(model.assistant.model, model.assistant.tokenizer, tasks=("answer", "how"))
    questions = ["how many cats", "is this a cat?"]
    assert check_request(Model("run", assistant), questions, Sampling()) == [questions[0], "answer en is this a cat?"]


def test_files_and_questions_come_in_any_order(folder: Path) -> None:
    Path("face").write_text("a file without an ending")
    arguments = ["is it?", "face", "my photo.JPG", "a/b", "red", "cat or dog/fox?", "x" * 5000]
    paths, questions = split_arguments(arguments)
    assert paths == ["face", "my photo.JPG", "a/b"] and len(questions) == 4


BAD = [
    ("none.png caption", "the image none.png: there is no such file"),
    ("text.png", "the image text.png: this is no image"),
    ("half.jpg", "the image half.jpg: it cannot be read to its end"),
    (".", "the image . is a folder: name the images in it, such as *.png"),
    ("--example 900", "choose a number from 0 to 899, got 900"),
    ("'what color is the hair?'", "vocabulary does not contain 'color', 'hair'.*Did you mean 'colour'? It knows these"),
    ("ocr", "unknown task 'ocr': this model was trained on caption, answer, detect, segment"),
    ("''", "a question is empty"),
    ("--detect ''", "detect what? Write the object behind it"),
    ("--model paligema", "there is no model 'paligema'.*Did you mean paligemma?"),
    ("--model owner/name", "owner/name"),
    ("--model .", "has no config.json: is it a PaliGemma folder?"),
    ("--model photo.jpg", "photo.jpg is a file: pass its folder"),
    ("--model CLIP", "belong to another network"),
    ("--precision bf16", "precision is for published weights"),
    ("--temperature 1 --top-p 0", "top_p in (0, 1], got 1.0 and 0.0"),
    ("--masks none.npz", "no weights 'none.npz'"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_bad_input_is_refused_before_any_work(
    line: str, message: str, folder: Path, hub_out_of_reach: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from helpers.weights import weights_path

    Path("text.png").write_text("no image")
    Path("half.jpg").write_bytes(Path("photo.jpg").read_bytes()[:1500])
    arguments = [str(weights_path("clip")) if part == "CLIP" else part for part in shlex.split(line)]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), last) and last.startswith("error: ")
    assert out == "" and not list(folder.glob("answers/*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--max-tokens 0", "argument --max-tokens: must be at least 1, got 0"),
        ("--example x", "argument --example: must be a whole number, got 'x'"),
        ("--top-p 2", "argument --top-p: must lie between 0 and 1, got 2"),
    ],
)
def test_bad_options_are_named(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named_first(folder: Path) -> None:
    with pytest.raises(SystemExit, match="choose another --out"):
        main(["--segment", "face", "--out", "photo.jpg/answers"])


def test_ctrl_c_keeps_the_answers_so_far(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import helpers.ask.__main__ as command

    computed = []

    def interrupted(*arguments, **options):
        computed.append(answer_prompt(*arguments, **options))
        if len(computed) == 2:
            raise KeyboardInterrupt
        return computed[-1]

    answer_prompt = command.answer_prompt
    monkeypatch.setattr(command, "answer_prompt", interrupted)
    assert main(["--caption", "is this a cat?"]) == 130
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and "the answers above are complete" in err


def test_an_answer_that_cannot_be_read_is_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PaliGemma, "stream", lambda *_, **__: iter(["<loc0001>", " nose"]))
    assert main(["--detect", "nose"]) == 0
    out, err = capsys.readouterr()
    assert out == "nothing found\n" and "'<loc0001> nose' has 1 <loc> tokens, a box has 4" in err
