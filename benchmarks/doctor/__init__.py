"""Faults planted in short trainings, and whether `helpers.training.doctor` names them.

python -m benchmarks.doctor    # what it finds in each training, a quarter of an hour
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.doctor.faults import FAULTS
from benchmarks.doctor.healthy import HEALTHY
from benchmarks.doctor.trainings import Training, train_a_tenth
from benchmarks.report import Row, at_least, at_most
from helpers.training.doctor import Finding, diagnose

NAMED = 0.9  # of the faults, at least
FALSE_ALARMS = 1  # healthy trainings in which something is found, at most


def examined(trainings: Sequence[Training]) -> Iterator[tuple[Training, list[Finding]]]:
    """Train a tenth of each, and see what is found."""
    for training in trainings:
        with tempfile.TemporaryDirectory() as folder:
            yield training, diagnose(train_a_tenth(training, Path(folder)))


def is_named(training: Training, findings: Sequence[Finding]) -> bool:
    """Whether the illness of a training is among the findings."""
    return training.illness in [finding.name for finding in findings]


def rows() -> list[Row]:
    """Examine all trainings."""
    named = [is_named(*each) for each in examined(FAULTS)]
    alarms = [training.name for training, findings in examined(HEALTHY) if findings]
    return [
        at_least(f"planted faults that the doctor names, of {len(FAULTS)}", sum(named) / len(named), NAMED),
        at_most(f"healthy trainings with a false alarm, of {len(HEALTHY)}", len(alarms), FALSE_ALARMS),
    ]
