"""The cells that load published weights do so from every layout that their text names, offline, at a small size."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.paligemma.reference import TOKENIZER, reference, write_folder
from benchmarks.sd1.reference import SMALL as SMALL_1
from benchmarks.sd3.reference import SMALL as SMALL_3
from helpers.sd1.pipeline import SD1Config, StableDiffusion1
from helpers.sd3 import pipeline as sd3_pipeline
from helpers.sd3.checkpoint import PREFIXES
from helpers.sd3.pipeline import StableDiffusion3
from helpers.text.bpe import BytePairTokenizer, published_merges
from helpers.vlm.pipeline import PaliGemma
from helpers.weights.short_errors import LoadingError
from pages.execute import NOTEBOOKS

VOCABULARY = 49_408  # of CLIP
SETTINGS = ("SD1_CHECKPOINT", "SD1_TOKENIZER", "SD3_CHECKPOINT", "SD3_ENCODERS", "SD3_TOKENIZER", "PALIGEMMA")
pytestmark = pytest.mark.usefixtures("hub_out_of_reach")


def cell(notebook: str, variable: str) -> str:
    """The source of the cell that reads this variable and nothing else of the notebook's weights."""
    [path] = NOTEBOOKS.glob(f"{notebook}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(each["source"]) for each in cells if each["cell_type"] == "code"]
    [source] = [source for source in sources if f'os.environ.get("{variable}")' in source]
    return source


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a cell with settings; returns the images that it showed and the text that it printed."""

    def run(notebook: str, variable: str, names: dict[str, Any], **settings: object) -> tuple[list, str]:
        for name in SETTINGS:
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))
        shown: list[torch.Tensor] = []
        course = SimpleNamespace(device=torch.device("cpu"), pick=lambda cpu, gpu: 2)
        surroundings = {"course": course, "torch": torch, "show": shown.append, "grid": lambda images, **_: images}
        exec("import os\n" + cell(notebook, variable), surroundings | names)
        return shown, capsys.readouterr().out

    return run


# --- notebook 05 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_clips_vocabulary(sd1, tmp_path_factory) -> Path:
    """A single file whose text encoder knows as many tokens as CLIP's."""
    tensors = load_file(sd1.single_file)
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    tensors[name] = torch.randn(VOCABULARY, tensors[name].shape[1])
    path = tmp_path_factory.mktemp("repository") / "v1-5-pruned-emaonly.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.fault("published weights")
@pytest.mark.parametrize("layout", ["diffusers", "safetensors", "ckpt"])
def test_stable_diffusion_1_in_every_layout(run, sd1, monkeypatch, layout):
    monkeypatch.setattr(SD1Config, "v1", lambda: SMALL_1)
    names = {"StableDiffusion1": StableDiffusion1}
    settings = {"SD1_CHECKPOINT": sd1.files[layout], "SD1_TOKENIZER": sd1.tokenizer}
    ([images], _) = run("05", "SD1_CHECKPOINT", names, **settings)
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all()


@pytest.mark.fault("published weights")
def test_a_single_file_needs_neither_tokenizer_nor_network(run, with_clips_vocabulary, monkeypatch):
    config = replace(SMALL_1, text=replace(SMALL_1.text, vocabulary=VOCABULARY))
    monkeypatch.setattr(SD1Config, "v1", lambda: config)
    names = {"StableDiffusion1": StableDiffusion1}
    for place in (with_clips_vocabulary, with_clips_vocabulary.parent):
        ([images], _) = run("05", "SD1_CHECKPOINT", names, SD1_CHECKPOINT=place)
        assert images.shape == (1, 3, 64, 64)


@pytest.mark.fault("published weights")
def test_clips_vocabulary_comes_with_the_course():
    tokenizer = BytePairTokenizer.from_file(published_merges())
    assert len(tokenizer) == VOCABULARY
    assert tokenizer(["a photo of a cat"])[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert "MIT License" in (published_merges().parent / "LICENSE").read_text()


@pytest.mark.fault("published weights", refused=True)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SD1_CHECKPOINT": "nowhere.safetensors"}, "no checkpoint at nowhere.safetensors.*SD1_TOKENIZER .not set."),
        ({"SD1_CHECKPOINT": "some-one/something"}, "the hub did not give it.*SD1_CHECKPOINT=some-one/something"),
    ],
)
def test_an_error_is_short_and_names_the_settings(run, settings, message):
    with pytest.raises(LoadingError, match=message) as error:
        run("05", "SD1_CHECKPOINT", {"StableDiffusion1": StableDiffusion1}, **settings)
    lines = error.value._render_traceback_()
    assert len(lines) <= 8 and max(map(len, lines)) <= 100


# --- notebook 06 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repository(sd3, tmp_path_factory) -> Path:
    """A downloaded repository of single files: one without encoders, one with the CLIPs, and the encoders' folder."""
    folder = tmp_path_factory.mktemp("stable-diffusion-3-medium")
    tensors = load_file(sd3.single_file)
    core = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_encoders.")}
    clips = {name: tensor for name, tensor in tensors.items() if "t5xxl" not in name}
    save_file(core, folder / "sd3_medium.safetensors")
    save_file(clips, folder / "sd3_medium_incl_clips.safetensors")
    (folder / "text_encoders").mkdir()
    for part, name in (("clip_l", "clip_l"), ("clip_g", "clip_g"), ("t5", "t5xxl_fp16")):
        prefix = PREFIXES[part]
        encoder = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        save_file(encoder, folder / "text_encoders" / f"{name}.safetensors")
    return folder


@pytest.fixture
def run_06(run, sd3, monkeypatch):
    monkeypatch.setattr(sd3_pipeline, "SD3Config", lambda: SMALL_3)

    def run_06(**settings: object) -> torch.Tensor:
        names = {"StableDiffusion3": StableDiffusion3}
        ([images], _) = run("06", "SD3_CHECKPOINT", names, SD3_TOKENIZER=sd3.tokenizers[0], **settings)
        return images

    return run_06


@pytest.mark.fault("published weights")
@pytest.mark.parametrize("name", ["", "sd3_medium.safetensors", "sd3_medium_incl_clips.safetensors"])
def test_a_downloaded_repository_of_single_files(run_06, repository, name):
    assert run_06(SD3_CHECKPOINT=repository / name).shape == (1, 3, 64, 64)


@pytest.mark.fault("published weights")
def test_a_diffusers_folder_of_sd3(run_06, sd3):
    assert run_06(SD3_CHECKPOINT=sd3.folder).shape == (1, 3, 64, 64)


@pytest.mark.fault("published weights", refused=True)
def test_text_encoders_in_a_folder_of_their_own(run_06, repository, tmp_path):
    alone = tmp_path / "sd3.5_medium.SAFETENSORS"
    shutil.copyfile(repository / "sd3_medium.safetensors", alone)
    with pytest.raises(LoadingError, match=r"comes without text encoders.*SD3_ENCODERS \(not set\)"):
        run_06(SD3_CHECKPOINT=alone)
    assert run_06(SD3_CHECKPOINT=alone, SD3_ENCODERS=repository / "text_encoders").shape == (1, 3, 64, 64)


# --- notebooks 14 and 15 ---------------------------------------------------------------------------------------------


@pytest.mark.fault("published weights", refused=True)
def test_a_folder_of_paligemma(run, tmp_path):
    folder = write_folder(reference(), tmp_path / "paligemma", 2026, shards=2)
    names = {"PaliGemma": PaliGemma, "face": torch.zeros(3, 28, 28)}
    assert TOKENIZER.known_words()
    with pytest.raises(ValueError, match="vocabulary does not contain"):  # the small tokenizer has few words
        run("14", "PALIGEMMA", names, PALIGEMMA=folder)


@pytest.mark.fault("published weights", refused=True)
def test_an_error_of_paligemma_names_its_setting(run, tmp_path):
    with pytest.raises(LoadingError, match="has no config.json.*PALIGEMMA="):
        run("14", "PALIGEMMA", {"PaliGemma": PaliGemma, "face": None}, PALIGEMMA=tmp_path)


@pytest.mark.fault("published weights", refused=True)
def test_code_that_comes_with_weights_needs_a_commit_that_was_read(monkeypatch):
    source = cell("15", "MINICPM").split("\n", 1)[1]
    monkeypatch.setenv("MINICPM", "openbmb/MiniCPM-V-2_6")
    monkeypatch.setenv("MINICPM_RUN_THEIR_CODE", "yes")
    for revision in ("", "main", "a1b2c3"):
        monkeypatch.setenv("MINICPM_REVISION", revision)
        with pytest.raises(ValueError, match="needs MINICPM_REVISION, the commit whose code you have read: 40 digits"):
            exec("import os\n" + source, {})
    monkeypatch.setenv("MINICPM_REVISION", "a" * 40)
    exec("import os\n" + source, {})
