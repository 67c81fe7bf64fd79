"""What every test shares: the cpu profile, no windows, and a hub that may be out of reach."""

import os

import matplotlib
import pytest
from hypothesis import HealthCheck, settings

os.environ["COURSE_PROFILE"] = "cpu"
for inherited in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # a make that a test starts prints as a user's own does
    os.environ.pop(inherited, None)
matplotlib.use("Agg")
# no clock decides: on a busy machine an example may take seconds, whatever the test
settings.register_profile("course", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("course")


@pytest.fixture
def hub_out_of_reach(monkeypatch):
    """Downloads fail at once."""

    def unreachable(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
