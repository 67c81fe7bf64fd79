"""Environment variables that a container, a network or another tool sets: harmless, or named in the refusal."""

import importlib.util
import json
import tempfile
from pathlib import Path

import pytest

from helpers.course import begin
from helpers.data import load_faces
from helpers.tiny_sd.train import main
from helpers.weights.pretrained import fetch

PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
DISCARD = "127.0.0.1:9"  # a port of this computer at which nobody listens


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


def socks_error(error: type[Exception]) -> pytest.MarkDecorator:
    """The mark of a proxy that the HTTP client refuses before it connects."""
    return pytest.mark.xfail(
        strict=True,
        raises=error,
        reason=f"a SOCKS proxy ends in the HTTP client's own {error.__name__} instead of fetch's explanation "
        "(AnimaLoraStudio#190)",
    )


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("HTTPS_PROXY", "http"),
        pytest.param("ALL_PROXY", "socks5", marks=socks_error(ImportError)),
        pytest.param("ALL_PROXY", "socks", marks=socks_error(ValueError)),
    ],
)
def test_hub_behind_an_unusable_proxy_is_out_of_reach(connect_through, name, scheme):
    if scheme == "socks5" and importlib.util.find_spec("socksio"):
        pytest.skip("socksio is installed: this proxy can be used")
    connect_through(name, f"{scheme}://{DISCARD}")
    with pytest.raises(FileNotFoundError, match="the hub did not give it"):
        fetch("nobody/nothing", ["x"])


@pytest.fixture
def user_without_home(tmp_path, monkeypatch) -> None:
    """A user without HOME and without an entry in /etc/passwd, as under `docker run --user`."""
    pwd = pytest.importorskip("pwd", reason="this system has no /etc/passwd")

    def unknown(user_id):
        raise KeyError(f"getpwuid(): uid not found: {user_id}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("COURSE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match="home directory"):
        Path.home()


NO_ADVICE = pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="where the user has no home directory the error does not say that COURSE_HOME would help "
    "(hermes-agent#108356, cactus#1803)",
)


@pytest.mark.usefixtures("user_without_home")
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(begin, id="begin"),
        pytest.param(lambda: load_faces("toy-faces", "val", 16, limit=6, progress=False), id="load_faces"),
    ],
)
@NO_ADVICE
def test_without_a_home_directory_course_home_is_advised(attempt, call):
    _, message = attempt(call, (RuntimeError, OSError))
    assert "COURSE_HOME" in message


@pytest.mark.usefixtures("user_without_home")
def test_without_a_home_directory_course_home_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "course"))
    assert begin().data_dir == tmp_path / "course"


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
    monkeypatch.delenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", raising=False)
    yield losses
    forget()


def test_training_repeats_its_losses(losses):
    """The premise of the next test."""
    assert losses("first") == losses("second")


def test_gradient_accumulation_of_the_environment_changes_nothing_or_is_refused(losses, attempt, monkeypatch):
    expected = losses("without")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accumulating, message = attempt(lambda: losses("with"), (SystemExit, ValueError))
    refused = accumulating is None and "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" in message
    assert accumulating == expected or refused
