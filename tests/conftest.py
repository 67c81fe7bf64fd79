"""What every test shares: the cpu profile, no windows, and a hub that may be out of reach."""

import os

import matplotlib
import pytest

os.environ["COURSE_PROFILE"] = "cpu"
for inherited in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # a make that a test starts prints as a user's own does
    os.environ.pop(inherited, None)
matplotlib.use("Agg")


@pytest.fixture
def hub_out_of_reach(monkeypatch):
    """Downloads fail at once."""

    def unreachable(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
