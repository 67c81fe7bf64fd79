"""The report: one line a claim, and an exit status that a script can trust."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import course, race_all, record, report
from benchmarks.autoencoders import vq
from benchmarks.measure import Comparison, peak_tensors
from benchmarks.tiny_sd import claims, trainings


def test_rows_compare_both_ways() -> None:
    assert report.at_least("agreement", 0.971, 0.97).ok and not report.at_least("agreement", 0.969, 0.97).ok
    assert report.at_most("size", 8, 8, "MB").ok and not report.at_most("size", 8.1, 8, "MB").ok


def test_a_number_that_is_none_is_short() -> None:
    assert not report.at_least("agreement", float("nan"), 0.97).ok
    assert not report.at_most("seconds", float("nan"), 1).ok


def test_lines_are_aligned() -> None:
    rows = [report.at_least("agreement", 0.98, 0.97), report.at_most("seconds, slowest", 130.0, 120, "s")]
    assert report.as_table(rows).splitlines() == [
        "agreement         0.98   >= 0.97   ok",
        "seconds, slowest  130 s  <= 120 s  SHORT",
    ]


@pytest.mark.parametrize(("measured", "status"), [(1, 0), (3, 1)])
def test_check_exits_1_where_one_is_short(
    measured: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [report.at_most("fine", 0, 2), report.at_most("claim", measured, 2)]
    monkeypatch.setitem(sys.modules, "benchmarks.invented", SimpleNamespace(check=lambda: rows))
    monkeypatch.setitem(command.TOPICS, "invented", "benchmarks.invented")
    assert command.main(["check", "invented"]) == status
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("arguments", [["check", "weather"], ["weather"]])
def test_an_unknown_topic_is_named_with_those_there_are(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert "no topic 'weather'; topics: course, data, method1" in capsys.readouterr().err


def test_every_record_beside_a_peer_is_on_the_page_of_evidence() -> None:
    """`make bench` fills the table; a record that changed without it would show."""
    page = (course.ROOT / "pages" / "evidence.md").read_text()
    for comparison in race_all.comparisons():
        assert (
            comparison.ratio is not None and f"| {comparison.what} | {comparison.peer} | {comparison.ratio:.2f}" in page
        ), comparison


def test_a_comparison_is_a_claim_in_its_direction() -> None:
    assert Comparison("time", "it", 0.9, None, 1.0).row().ok and not Comparison("time", "it", 1.1, None, 1.0).row().ok
    assert Comparison("speed", "it", 1.1, None, 1.0, more=True).row().ok
    assert not Comparison("speed", "it", 0.9, None, 1.0, more=True).row().ok
    assert Comparison("first batch", "it", 7.0).row().ok and not Comparison("speed", "it", None).row().ok


def test_every_part_of_the_race_has_what_is_run() -> None:
    for part in (*race_all.PARTS, race_all.ON_A_GPU):
        module = importlib.import_module(part.module)
        assert callable(getattr(module, part.measure, None)), part
        assert part is race_all.ON_A_GPU or hasattr(module, "comparisons"), part


def test_a_record_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "results" / "x.json"
    assert record.read_record(path) == {}
    record.write_record(path, {"hardware": record.hardware("two trainings at once")})
    assert "two trainings at once, torch" in record.read_record(path)["hardware"]
    with pytest.raises(TypeError):
        record.write_record(path, {"x": object()})
    assert record.read_record(path) and list(path.parent.iterdir()) == [path], "nothing half-written is left"


def test_parameters_that_are_shared_count_once() -> None:
    layer = torch.nn.Linear(3, 4)
    assert record.parameter_count(torch.nn.Sequential(layer, layer)) == 16


def test_a_part_that_fails_is_named_and_the_others_go_on(monkeypatch, capfd) -> None:
    parts = [race_all.Part("benchmarks.report", measure, "") for measure in ("nothing_of_this_name", "as_table")]
    monkeypatch.setattr(race_all, "PARTS", parts)
    assert [race_all._measured(part) for part in parts] == [False, False]
    assert "has no attribute 'nothing_of_this_name'" in capfd.readouterr().err
    monkeypatch.setattr(race_all, "PEERS", ("nothing_of_this_name",))
    assert race_all.main() == 2 and "pip install -e '.[bench]'" in capfd.readouterr().err


def test_the_page_on_training_says_of_real_faces_what_was_measured() -> None:
    measured = json.loads((course.ROOT / vq.REAL).read_text())
    page = " ".join((course.ROOT / "pages" / "training.md").read_text().split())
    assert (
        f"After {measured['minutes']} minutes on two cores it keeps {measured['psnr']:.1f} dB of {measured['faces']}"
        in page
    )
    assert measured["threads"] == 2


def _record(path: Path, **settings: int) -> None:
    runs = {"pixels": [{"seed": 1}], "pretrained": [], "own": []}
    channels = {"faces": {"4": 20.0}, "patterns": {}}
    kept = trainings.settings() | settings
    path.write_text(json.dumps({"settings": kept, "minutes": 9.0, "runs": runs, "channels": channels}))


def test_a_resumed_comparison_trains_what_the_record_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "repository_root", lambda: tmp_path)
    monkeypatch.setattr(claims, "RECORD", "record.json")
    _record(tmp_path / "record.json")
    every = trainings.jobs()
    assert len(every) == len(set(every)) == 3 * trainings.SEEDS + 2 * len(trainings.CHANNELS)
    assert [job for job in every if claims.done(claims.begun(), job)] == []  # not asked to resume: from the start
    monkeypatch.setenv("BENCH_RESUME", "1")
    there = [job for job in every if claims.done(claims.begun(), job)]
    assert there == [("run", "pixels", "1"), ("channels", "faces", "4")]
    _record(tmp_path / "record.json", batch=7)  # made with other settings: not to be mixed
    assert [job for job in every if claims.done(claims.begun(), job)] == []


def test_tensors_that_live_at_once_are_counted() -> None:
    def one_after_another() -> torch.Tensor:
        first = torch.zeros(1000).add(1)
        return first + torch.zeros(1000)

    assert peak_tensors(one_after_another) == 3 * 4000  # the first, the zeros added, their sum
    assert peak_tensors(lambda: None) == 0
