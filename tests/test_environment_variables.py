"""Environment variables that a container, a network or another tool sets: harmless, or named in the refusal."""

import importlib.util
import json
import tempfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from helpers.course import begin, course_home
from helpers.data import fetch as downloads
from helpers.data import load_faces
from helpers.data.faces import CLASS_NAMES
from helpers.tiny_sd.train import main
from helpers.training.setup import SHARDING_VARIABLES, make_accelerator
from helpers.weights.pretrained import fetch

PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
DISCARD = "127.0.0.1:9"  # a port of this computer at which nobody listens
ROWS = "foreign errors and rows"


# --- proxies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def connect_through(monkeypatch):
    """Set one proxy variable and no other, for a hub that is asked anew."""
    import huggingface_hub
    from huggingface_hub import constants

    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    yield monkeypatch.setenv
    huggingface_hub.close_session()


@pytest.mark.fault(ROWS, refused=True)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", f"http://{DISCARD}"),
        ("ALL_PROXY", f"socks5://{DISCARD}"),
        ("https_proxy", f"socks5h://{DISCARD}"),
        ("ALL_PROXY", f"socks://{DISCARD}"),
        ("ALL_PROXY", f"ftp://{DISCARD}"),
        ("HTTPS_PROXY", "http://[::1"),
        ("HTTPS_PROXY", "http://name:secret@127.0.0.1:9"),
        ("ALL_PROXY", "http://127.0.0.1:nine"),
    ],
)
def test_hub_behind_an_unusable_proxy_is_out_of_reach(connect_through, name, value):
    if value.startswith("socks5") and importlib.util.find_spec("socksio"):
        pytest.skip("socksio is installed: this proxy can be used")
    connect_through(name, value)
    with pytest.raises(FileNotFoundError, match=f"the hub did not give it .*a proxy is set by {name.upper()}") as error:
        fetch("nobody/nothing", ["x"])
    assert "secret" not in str(error.value)


# --- no home directory ------------------------------------------------------------------------------------------------


@pytest.fixture
def user_without_home(tmp_path, monkeypatch) -> None:
    """A user without HOME and without an entry in /etc/passwd, as under `docker run --user`."""
    pwd = pytest.importorskip("pwd", reason="this system has no /etc/passwd")

    def unknown(user):
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    for name in ("HOME", "COURSE_HOME", "ANIMAL_FACES_DIR", "KAGGLEHUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match="home directory"):
        Path.home()


@pytest.mark.fault(ROWS, refused=True)
@pytest.mark.usefixtures("user_without_home")
@pytest.mark.parametrize("folder", [None, "~/course", "~nobody/course"])
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(begin, id="begin"),
        pytest.param(lambda: load_faces("toy-faces", "val", 16, limit=6, progress=False), id="load_faces"),
        pytest.param(downloads.hub_zip, id="hub_zip"),
    ],
)
def test_without_a_home_directory_course_home_is_advised(monkeypatch, call, folder):
    if folder:
        monkeypatch.setenv("COURSE_HOME", folder)
    with pytest.raises(RuntimeError, match="no home directory .*: set the environment variable COURSE_HOME"):
        call()


@pytest.mark.fault(ROWS)
@pytest.mark.usefixtures("user_without_home")
def test_without_a_home_directory_course_home_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "course"))
    assert begin().data_dir == course_home() == tmp_path / "course"
    assert downloads.kaggle_copies() == []


@pytest.mark.fault(ROWS, refused=True)
@pytest.mark.usefixtures("user_without_home")
def test_a_folder_of_photographs_in_no_home_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no animal faces at ~/afhq: ~/afhq does not exist"):
        load_faces("animal-faces", root="~/afhq", cache_dir=tmp_path, progress=False)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def losses(tmp_path, monkeypatch):
    """The losses of a small training, run in this process as if no other had been."""
    from accelerate.state import AcceleratorState, GradientState

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    def losses(name: str) -> list[float]:
        forget()
        options = ["--size", "16", "--limit", "12", "--widths", "8", "16", "--batch-size", "4", "--precision", "fp32"]
        often = ["--steps", "4", "--log-every", "1", "--sample-every", "0"]
        assert main([*options, *often, "--out", str(tmp_path / name)]) == 0
        return [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]

    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    for name in ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    yield losses
    forget()


@pytest.mark.fault("seeds")
def test_variables_of_accelerate_change_no_loss(losses, monkeypatch):
    expected = losses("without")
    assert losses("repeated") == expected
    for name, value in (
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_DYNAMO_BACKEND", "EAGER"),
    ):
        monkeypatch.setenv(name, value)
        assert losses(name) == expected, name


@pytest.mark.fault("seeds", refused=True)
@pytest.mark.parametrize("value", ["true", "1"])
@pytest.mark.parametrize("name", SHARDING_VARIABLES)
def test_another_way_to_share_a_model_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"the environment variable {name} asks for sharded training.* unset it"):
        make_accelerator()


# --- one bad row of a table -------------------------------------------------------------------------------------------


@pytest.mark.fault(ROWS)
@pytest.mark.parametrize(
    "bad",
    [
        {"image": None, "label": 0},
        {"image": {"bytes": None}, "label": 1},
        {"image": {"bytes": b""}, "label": 1},
        {"image": {"bytes": b"x"}, "label": None},
        {"image": {"bytes": b"x"}, "label": 7},
        {"image": {"bytes": b"x"}, "label": -1},
    ],
)
def test_a_bad_row_of_the_hubs_table_spoils_no_other(tmp_path, bad):
    good = [{"image": {"bytes": f"image {label}".encode()}, "label": label} for label in range(len(CLASS_NAMES))]
    file = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([good[0], bad, *good[1:]]), file)
    assert list(downloads.rows([file])) == [(row["image"]["bytes"], row["label"]) for row in good]
