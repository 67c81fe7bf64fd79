"""The parts of a run: its parser, its files, its clock."""

import argparse
import json

import pytest
from filelock import FileLock

from helpers.training import clock
from helpers.training.arguments import command_line, training_parser
from helpers.training.clock import TrainingClock
from helpers.training.folder import RunFolder
from helpers.training.log import read_log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=64, help="pixels per side")


def parser(**defaults) -> argparse.ArgumentParser:
    return training_parser(
        "helpers.x.train", "Train x.", add_arguments, steps=9, batch_size=4, learning_rate=0.1, **defaults
    )


def test_a_training_parser_has_the_tasks_options_first_and_the_shared_ones_after(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m helpers.x.train") and "Train x." in text
    assert text.index("pixels per side (default: 64)") < text.index("updates (default: 9)")
    assert command_line(parser(), {"size": 32, "steps": 9, "seed": 3}) == "python -m helpers.x.train --size 32 --seed 3"


def test_defaults_of_shared_options_can_be_changed_and_others_do_not_exist():
    assert parser(ema=0.9, precision="bf16").parse_args([]).ema == 0.9
    with pytest.raises(TypeError, match="options that helpers.x.train does not have: emma"):
        parser(emma=0.9)


def test_rows_after_the_checkpoint_and_unfinished_files_are_dropped(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for step in (1, 2, 3):
        folder.append_to_log({"step": step, "loss": 0.5})
    with open(folder.log, "a") as file:
        file.write('{"step": 4, "lo')
    (folder.path / ".weights.safetensors.0123").write_bytes(b"half")
    (folder.path / "samples-000001.png").write_bytes(b"")
    folder.truncate_log(2)
    assert [row["step"] for row in read_log(folder.log)] == [1, 2]
    assert [json.loads(line)["step"] for line in folder.log.read_text().splitlines()] == [1, 2]
    assert sorted(path.name for path in folder.path.iterdir()) == ["log.jsonl", "samples-000001.png"]


def test_a_folder_in_use_is_refused_and_the_lock_is_released(tmp_path):
    folder = RunFolder(tmp_path)
    with FileLock(tmp_path / "lock"), pytest.raises(SystemExit, match="another training is running"), folder.locked():
        pytest.fail("two trainings in one folder")
    with pytest.raises(OSError, match="full"), folder.locked():
        raise OSError("full")
    with folder.locked():
        pass


def test_the_clock_counts_steps_and_leaves_out_what_lies_between_them(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(clock.time, "process_time", lambda: 2 * now[0])
    timer = TrainingClock()

    def step(seconds: float) -> None:
        now[0] += seconds
        timer.step(images=8)

    now[0] += 50  # the data are loaded
    timer.restart()
    step(10)
    assert timer.images_per_second == 0, "the first step also allocates and compiles"
    step(2)
    assert timer.images_per_second == pytest.approx(4)
    now[0] += 30  # samples are generated
    timer.restart()
    step(1)
    assert timer.images_per_second == pytest.approx(0.95 * 4 + 0.05 * 8)
    assert timer.seconds == pytest.approx(13) and timer.core_seconds == pytest.approx(26)
