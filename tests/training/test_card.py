"""The model card beside trained weights, and the upload to the hub, without a hub."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalTokenNotFoundError

from helpers.tiny_sd.train import main
from helpers.training.card import model_card
from helpers.weights import read_metadata

TINY = "--size 16 --limit 30 --widths 8 16 --batch-size 8 --steps 2 --sample-every 2 --precision fp32".split()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """A hub that notes what is asked of it; `error` is raised by the method named `fails`."""
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    state: dict = {"fails": "", "error": OSError("no network"), "created": [], "files": {}}

    class Api:
        def create_repo(self, repository: str, *, exist_ok: bool, private: bool) -> None:
            assert exist_ok and private
            if state["fails"] == "create_repo":
                raise state["error"]
            state["created"].append(repository)

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
            if state["fails"] == "upload_folder":
                raise state["error"]
            state["files"] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return state


def test_a_training_leaves_a_card_and_uploads_it_with_the_weights(hub: dict, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main([*TINY, "--out", str(out), "--push-to-hub", "me/pets"]) == 0
    card = (out / "README.md").read_text()
    metadata = read_metadata(out / "weights.safetensors")
    assert f"| command | {metadata['command']} |" in card and "push-to-hub" not in card
    assert f"| SHA-256 of the tensors | {metadata['sha256']} |" in card
    assert "![Generated images](samples-000002.png)" in card and "Licence" not in card
    assert set(hub["created"]) == {"me/pets"}
    assert hub["files"].keys() == {"weights.safetensors", "README.md", "samples-000002.png"}
    assert hub["files"]["README.md"] == card.encode()
    assert "uploaded to https://huggingface.co/me/pets" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalTokenNotFoundError("no token"), "log in first, with `hf auth login`"),
        (OSError("no\nnetwork"), "--push-to-hub me/pets: no network"),
    ],
)
def test_what_the_hub_would_refuse_is_told_before_the_training(hub: dict, tmp_path: Path, error, message: str) -> None:
    hub.update(fails="create_repo", error=error)
    with pytest.raises(SystemExit, match=message):
        main([*TINY, "--out", str(tmp_path / "run"), "--push-to-hub", "me/pets"])
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_failed_upload_loses_nothing_and_says_how_to_go_on(hub: dict, tmp_path: Path, capsys) -> None:
    hub["fails"] = "upload_folder"
    out = tmp_path / "run"
    assert main([*TINY, "--out", str(out), "--push-to-hub", "me/pets"]) == 0
    assert f"not uploaded (no network); later: hf upload me/pets {out}" in capsys.readouterr().out
    assert (out / "weights.safetensors").exists()


def test_names_that_no_repository_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    with pytest.raises(SystemExit, match="--push-to-hub a/b/c: "):
        main([*TINY, "--out", str(tmp_path / "run"), "--push-to-hub", "a/b/c"])


def test_the_licence_of_photographs_is_in_the_card() -> None:
    card = model_card("animals", {"licence": "trained on photographs; non-commercial use only", "steps": "7"})
    assert card.startswith("---\ntags:\n- diffusion\nlicense: other\nlicense_name: non-commercial\n---\n")
    assert "**Licence.** Trained on photographs; non-commercial use only." in card and "| updates | 7 |" in card
    assert "Generated images" not in card
