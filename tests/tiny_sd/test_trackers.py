"""--report-to: what a tracker receives, and packages that are missing."""

from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from helpers.tiny_sd.train import main
from helpers.training import trackers
from helpers.training.trackers import TRACKERS, check_tracker, flatten

from .test_train import TINY


class Recorder:
    """A tracker that keeps what it is sent."""

    requires_logging_directory = True
    sent: ClassVar[list[tuple[int, dict]]] = []
    settings: ClassVar[dict] = {}
    ends: ClassVar[list[str]] = []

    def __init__(self, run_name: str, logging_dir: str):
        self.run_name = run_name

    def start(self) -> None:
        Recorder.sent.clear()

    def store_init_configuration(self, values: dict) -> None:
        Recorder.settings.update(values)

    def log(self, values: dict, step: int, **_: Any) -> None:
        Recorder.sent.append((step, values))

    def finish(self) -> None:
        Recorder.ends.append(self.run_name)


@pytest.mark.usefixtures("one_home")
def test_log_validations_and_samples_are_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", Recorder)
    monkeypatch.setattr(trackers, "PACKAGES", {"trackio": ("accelerate",)})
    options = [
        "--report-to",
        "trackio",
        "--validate-every",
        "12",
        "--sample-every",
        "24",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*TINY, *options]) == 0
    names = {name for _, values in Recorder.sent for name in values}
    assert {"training/loss", "training/gradient_norm", "validation/loss", "validation/by_noise_level/0.5"} <= names
    assert "samples/roughness" in names and Recorder.ends[-1] == "run" and Recorder.settings["batch_size"] == 8
    assert Recorder.settings["widths"] == "[8, 16]"  # trackers take no lists
    assert [step for step, values in Recorder.sent if "validation/loss" in values] == [12, 24]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_before_anything_is_trained(name, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(SystemExit, match=f"--report-to {name} needs its package: pip install {name}"):
        main([*TINY, "--report-to", name, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_no_tracker_needs_no_package():
    check_tracker(None)


def test_numbers_in_nested_dictionaries_are_named_after_the_way_to_them():
    assert flatten({"a": {"b": 1, "c": {"d": 2.5}}, "e": "text", "f": None}, "x") == {"x/a/b": 1.0, "x/a/c/d": 2.5}
    assert set(TRACKERS) <= set(LOGGER_TYPE_TO_CLASS)
