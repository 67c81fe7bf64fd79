"""What is written beside the pages: weights that unpack to the same bytes, scripts that run, and checked captions."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load

from helpers.tiny_sd.model import TinySD
from helpers.weights.names import current_name
from pages.live import models, package
from pages.live.node import Engine, find_node

VOCABULARY = ["<pad>", "a", "cat", "striped", "spotted", "with", "background"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("live")
    return folder, package.write(folder)


def _page_file(name: str) -> str:
    return (package.HERE / name).read_text(encoding="utf-8")


def _function(file: str, name: str) -> str:
    """The source of one function of a page's script."""
    source = _page_file(file)
    start = source.index(f"function {name}(")
    return source[start : source.index("\n}\n", start) + 2]


def test_weights_as_scripts_unpack_to_the_same_bytes(engine: Engine) -> None:
    data = bytes(range(256)) * 3 + b'\\"\n\r"\\' * 5
    script = package.as_script("x", data)
    unescape = _function("load.js", "unescapeBytes")
    over_http = engine(f"{unescape} return [...new Uint8Array(unescapeBytes(new Uint8Array(script)))];", script=script)
    assert bytes(over_http)[: len(data)] == data  # then the rest of the script, to which no offset points
    text = "".join(chr(byte if byte < 128 else 0xF700 + byte) for byte in script)  # the encoding x-user-defined
    unpack = "Array.from(self.liveWeights.x, (character) => character.charCodeAt(0) & 255)"
    from_file = engine(f"globalThis.self = globalThis; (0, eval)(text); return {unpack};", text=text)
    assert bytes(from_file) == data


def test_every_model_that_ships_is_written(written: tuple[Path, dict]) -> None:
    folder, manifest = written
    assert set(manifest["models"]) == set(models.shipped_models()) >= {"pixels", "own", "sd1", "animals"}
    names = {path.stem: path.stat().st_size for path in (folder / "weights").iterdir()}
    assert names == manifest["sizes"]
    assert {weights for model in manifest["models"].values() for weights in model["parts"].values()} == set(names)


def test_scripts_are_valid_and_lean(written: tuple[Path, dict]) -> None:
    folder, _ = written
    node = find_node()
    if node is None:
        pytest.skip("no Node on the path")
    worker = folder / "worker.js"
    worker.write_text(package.engine_source() + _page_file("worker.js"))
    for path in (folder / "try_it.js", worker):
        checked = subprocess.run([node, "--check", str(path)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert path.stat().st_size < 150_000
    assert "http://" not in worker.read_text() and "https://" not in worker.read_text()


def test_weights_have_todays_names() -> None:
    data = load(models.read_part("tiny_sd_pixels", "unet"))
    assert set(data) == set(TinySD.from_weights("tiny_sd_pixels").unet.state_dict())
    assert all(current_name(name) == name for name in data)


def test_a_network_that_the_engine_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    description = models.read_description(models.weights_path("tiny_sd_own")) | {"objective": "epsilon"}
    monkeypatch.setattr(models, "read_description", lambda _: description)
    with pytest.raises(ValueError, match="objective 'flow'"):
        models.read_part("tiny_sd_own", "unet")


def test_a_model_without_weights_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "future", models.LiveModel("Not trained yet", "no_such_weights", 2.0))
    assert "future" not in models.shipped_models()


@pytest.mark.parametrize("comment", ["<!-- live: nobody: seed -->", "<!-- live: own: seed colour -->"])
def test_a_figure_of_an_unknown_model_or_control_is_refused(comment: str) -> None:
    with pytest.raises(ValueError, match="nobody|colour"):
        package.with_figures(f"Text\n\n{comment}\n", "../live/")


def test_every_notebook_has_at_most_one_figure_and_it_can_be_had() -> None:
    """The page's elements have identifiers, which must not occur twice."""
    comments = {}
    for path in sorted((package.HERE.parents[1] / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        comments[path.stem[:2]] = text.count("<!-- live")
        assert comments[path.stem[:2]] == len(package.FIGURE.findall(text)) <= 1, f"{path.name}: a comment is misspelt"
        assert "<!-- live" not in package.with_figures(text, "../live/")
    assert {number for number, count in comments.items() if count} == {"04", "05", "09", "11"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a striped cat", {"unknown": [], "excess": 0}),
        ("A stripped Cat.", {"unknown": [{"word": "stripped", "suggestion": "striped"}], "excess": 0}),
        ("a xylophone", {"unknown": [{"word": "xylophone", "suggestion": None}], "excess": 0}),
        ("<pad>", {"unknown": [{"word": "<pad>", "suggestion": None}], "excess": 0}),
        ("a cat " * 4, {"unknown": [], "excess": 2}),
    ],
)
def test_captions_are_checked(text: str, expected: dict, engine: Engine) -> None:
    checked = engine(
        f"{_page_file('caption.js')}; return checkCaption(text, vocabulary, 6);", text=text, vocabulary=VOCABULARY
    )
    assert checked == json.loads(json.dumps(expected))


def _code_lines(*names: str) -> int:
    """Lines of JavaScript that hold code: neither blank nor a comment."""
    lines = [line.strip() for name in names for line in _page_file(f"{name}.js").splitlines()]
    return sum(bool(line) and not line.startswith("//") for line in lines)


def test_the_chapter_counts_lines_right() -> None:
    text = " ".join((package.HERE.parent / "javascript.md").read_text(encoding="utf-8").split())
    model = _code_lines("safetensors", "random", "schedules", "samplers", "guidance", "embeddings", "tiny_unet")
    operations = _code_lines("activations", "attention", "feature_maps", "operations")
    for stated, lines in (
        ("takes about 340 lines of code", model),
        ("Another 400 lines are the operations", operations),
        ("and 310 make these fast", _code_lines("assembler", "matmul", "elementwise")),
    ):
        number = int("".join(character for character in stated if character.isdigit()))
        assert stated in text and abs(lines - number) <= 10, f"{stated}: {lines}"


def test_excerpts_in_the_chapter_fit_the_page() -> None:
    chapter = (package.HERE.parent / "javascript.md").read_text(encoding="utf-8")
    excerpts = re.findall(r"literalinclude\} live/(\S+)\n([^`]*)```", chapter)
    assert len(excerpts) >= 8
    for name, options in excerpts:
        source = (package.HERE / name).read_text(encoding="utf-8")
        first = re.search(r":start-at: (.+)", options)
        after = re.search(r":end-before: (.+)", options)
        excerpt = source[source.index(first[1]) :].partition(after[1] if after else "\n}\n")[0]
        assert [line for line in excerpt.splitlines() if len(line) > 88] == [], name
