"""The doctor: every illness is named where its numbers are planted, and none in a healthy training."""

import copy
import json
from pathlib import Path

import pytest

from benchmarks.doctor import FAULTS
from helpers.training.doctor import ILLNESSES, diagnose, main

STEPS = range(10, 101, 10)
HEALTHY = {
    "options": {
        "settings": {"method": "pixels", "steps": 1000, "batch_size": 16, "start": None, "perceptual": 0.0},
        "images": 500,
        "distinct_images": 500,
        "classes": ["cat", "dog", "wild"],
        "label_agreement": {"nearest": 0.6, "chance": 0.33, "standard_error": 0.02},
    },
    "log": [
        {
            "step": step,
            "loss": 1 / step**0.5,
            "learning_rate": 1e-3,
            "gradient_norm": 0.3,
            "input_mean": 0.001 * step,
            "input_std": 0.5,
            "input_min": -1.0,
            "input_max": 1.0,
            "input_diversity": 0.4,
            "conditioned": 0.9,
            "classes": 4,
            "time_mean": 0.5,
            "time_std": 0.2,
        }
        for step in STEPS
    ],
    "measurements": [
        {
            "step": step,
            "validation": {
                "loss": loss,
                "training_loss": loss,
                "unconditional_loss": loss,
                "current_loss": 0.99 * loss,
            },
        }
        for step, loss in ((50, 0.15), (60, 0.14), (80, 0.12), (100, 0.11))
    ]
    + [
        {
            "step": 100,
            "samples": {"roughness": 0.05, "saturated": 0.01},
            "training_images": {"roughness": 0.1, "saturated": 0.01},
            "copied": 0.0,
        }
    ],
}


def in_log(**values):
    """A change of every row of the log."""
    return lambda run: [row.update(values) for row in run["log"]]


def in_options(**values):
    return lambda run: run["options"].update(values)


def in_settings(**values):
    return lambda run: run["options"]["settings"].update(values)


def in_validations(**factors):
    """Multiply values of every validation."""

    def change(run):
        for row in run["measurements"][:-1]:
            for name, factor in factors.items():
                row["validation"][name] *= factor

    return change


def in_samples(**values):
    return lambda run: run["measurements"][-1]["samples"].update(values)


def in_latents(**values):
    return lambda run: (in_settings(method="pretrained")(run), in_log(**values)(run))


def losses(*values):
    """The losses of the log, the last one repeated."""

    def change(run):
        for index, row in enumerate(run["log"]):
            row["loss"] = values[min(index, len(values) - 1)]

    return change


def rate(value, *values):
    return lambda run: (in_log(learning_rate=value)(run), losses(*values)(run))


def unchanged(run):
    for row in run["measurements"][:-1]:
        row["validation"]["current_loss"] = 0.15


def overfitted(run):
    for row, loss in zip(run["measurements"], (0.12, 0.1, 0.12, 0.15)):
        row["validation"] |= {"loss": loss, "current_loss": loss, "training_loss": 0.09}


def not_centred(run):
    in_latents(input_std=1.0)(run)
    for row in run["log"]:
        row["input_mean"] += 1.5


PLANTED = [
    ("not a number", lambda run: run["measurements"].append({"step": 30, "stopped": "at step 31 the loss is nan"})),
    ("wrong value range", in_log(input_min=0.0)),
    ("wrong value range", in_log(input_max=2.6)),
    ("wrong scaling factor", in_latents(input_std=5.5)),
    ("wrong scaling factor", not_centred),
    ("every batch the same", in_log(input_mean=0.1)),
    ("images all alike", in_options(distinct_images=3)),
    ("too few images", in_options(distinct_images=20, images=20)),
    ("classes say nothing", in_options(label_agreement={"nearest": 0.34, "chance": 0.33, "standard_error": 0.02})),
    ("condition not used", in_log(conditioned=0.0, classes=1)),
    ("condition not used", in_log(classes=2)),
    ("wrong noise levels", in_log(time_mean=500.0)),
    ("wrong noise levels", in_log(time_std=0.0)),
    ("batch too small", in_settings(batch_size=1)),
    ("network does not change", unchanged),
    ("network does not change", in_log(gradient_norm=0.0)),
    ("learning rate too high", losses(1.0, 0.2, 0.9, 1.3)),
    ("learning rate too high", in_validations(current_loss=3.0)),
    ("learning rate too low", rate(1e-6, 0.12, 0.115, 0.11)),
    ("average lags behind", in_validations(loss=2.0, training_loss=2.0)),
    ("trained and used differently", in_validations(loss=5.0, training_loss=5.0, current_loss=5.0)),
    ("samples are noise", in_samples(roughness=0.9)),
    ("samples overexposed", in_samples(saturated=0.8)),
    ("samples repeat training images", lambda run: run["measurements"][-1].update(copied=0.5)),
    ("overfitting", overfitted),
]


def write(run: dict, folder: Path) -> Path:
    """Write a run's folder."""
    folder.mkdir(exist_ok=True)
    (folder / "options.json").write_text(json.dumps(run["options"]))
    for name in ("log", "measurements"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in run[name]))
    return folder


def test_nothing_is_found_in_a_healthy_training(tmp_path, capsys):
    assert main([str(write(HEALTHY, tmp_path))]) == 0
    assert f"{len(ILLNESSES)} illnesses were looked for" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "plant"), PLANTED)
def test_an_illness_is_named_alone(name, plant, tmp_path):
    run = copy.deepcopy(HEALTHY)
    plant(run)
    assert [finding.name for finding in diagnose(write(run, tmp_path))] == [name]


def test_every_illness_is_planted_here_or_rows_would_go_untested():
    assert {name for name, _ in PLANTED} == {illness.name for illness in ILLNESSES} and len(ILLNESSES) >= 12


def test_every_illness_that_is_planted_in_trainings_has_that_name():
    assert {fault.illness for fault in FAULTS} <= {illness.name for illness in ILLNESSES}


def test_a_training_that_has_just_begun_is_no_alarm(tmp_path):
    run = copy.deepcopy(HEALTHY) | {"measurements": [], "log": HEALTHY["log"][:1]}
    assert not diagnose(write(run, tmp_path / "begun"))
    (tmp_path / "begun" / "log.jsonl").unlink()
    (tmp_path / "begun" / "measurements.jsonl").unlink()
    assert not diagnose(tmp_path / "begun")


def test_fine_tuning_needs_few_images_and_little_learning(tmp_path):
    run = copy.deepcopy(HEALTHY)
    in_settings(start="tiny_sd_animals")(run)
    in_options(images=20, distinct_images=20)(run)
    rate(1e-5, 0.1)(run)
    assert not diagnose(write(run, tmp_path))


def test_a_folder_without_a_training_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert stop.value.code == 2 and f"no training was begun in {tmp_path}" in capsys.readouterr().err


def test_findings_come_with_numbers_and_advice(tmp_path, capsys):
    run = copy.deepcopy(HEALTHY)
    in_log(input_max=2.64)(run)
    assert main([str(write(run, tmp_path))]) == 1
    printed = capsys.readouterr().out
    assert "wrong value range: the network is fed values from -1.00 to 2.64" in printed and "x / 127.5 - 1" in printed
