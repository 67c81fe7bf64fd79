"""Faults planted in real trainings, of which `python -m benchmarks.doctor` has three dozen."""

import pytest

from benchmarks.doctor import FAULTS, is_named
from benchmarks.doctor.trainings import STEPS, Training, train_a_tenth
from helpers.training.doctor import diagnose

pytestmark = pytest.mark.usefixtures("one_home")


@pytest.mark.parametrize("name", ["images as for ImageNet", "a value that is no number"])
def test_a_fault_in_a_training_is_named(name, tmp_path):
    (fault,) = [fault for fault in FAULTS if fault.name == name]
    assert is_named(fault, diagnose(train_a_tenth(fault, tmp_path)))


def test_a_healthy_training_is_no_alarm(tmp_path):
    folder = train_a_tenth(Training("as usual"), tmp_path)
    assert not diagnose(folder)
    assert len((folder / "log.jsonl").read_text().splitlines()) == 1 + STEPS // 100
