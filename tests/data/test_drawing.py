"""The synthetic faces as a dataset."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from helpers.course import repository_root
from helpers.data import drawing, load_faces
from helpers.data.toy_faces import draw_face


def load(split: str = "train", count: int = 12, **options):
    return load_faces("toy-faces", split, 16, limit=count, progress=False, **options)


def test_columns_belong_together() -> None:
    faces = load()
    assert faces.counts == {"cat": 4, "dog": 4, "wild": 4}
    for image, label, text, attributes in zip(faces.images, faces.labels, faces.captions, faces.attributes):
        assert np.array_equal(image, draw_face(attributes, 16))
        assert faces.class_names[label] == attributes.species and attributes.fur in text


def test_seed_and_split_decide_the_faces() -> None:
    assert np.array_equal(load().images, load().images)
    others = [load(), load("val"), load(seed=1), load("val", seed=1), load(seed=2)]
    assert len({faces.images.tobytes() for faces in others}) == 5
    assert not {face.look for face in others[0].attributes} & {face.look for face in others[1].attributes}


def test_the_first_of_many_are_the_same() -> None:
    many = load(count=20)
    few = load(count=6)
    assert np.array_equal(many.images[:6], few.images) and many.captions[:6] == few.captions


def test_a_limit_below_the_whole_split_reads_the_whole_splits_cache(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(drawing.COUNTS, "train", 9)
    whole = load_faces("toy-faces", size=16, progress=False)
    assert len(whole) == 9
    few = load(count=6)
    assert np.array_equal(few.images, whole.images[:6]) and len(few.attributes) == len(few.captions) == 6
    assert len(list((tmp_path / "home" / "cache").glob("*.npy"))) == 1


def test_the_usual_counts() -> None:
    assert drawing.COUNTS == {"train": 6000, "val": 900}


def test_workers_draw_the_same_faces_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = drawing.attributes_of("train", 130, seed=0)
    alone = np.concatenate(list(drawing.draw_all(attributes, 16, progress=False)))
    monkeypatch.setattr(drawing, "MIN_FOR_WORKERS", 1)
    monkeypatch.setattr(drawing, "cpu_count", lambda: 2)
    assert np.array_equal(np.concatenate(list(drawing.draw_all(attributes, 16, progress=False))), alone)


def test_dead_workers_do_not_stop_the_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = drawing.attributes_of("train", 130, seed=0)
    expected = np.concatenate(list(drawing.draw_all(attributes, 16, progress=False)))

    class DyingPool:
        def __init__(self, *_, **__) -> None: ...

        def map(self, function, chunks):
            yield function(chunks[0])
            raise drawing.BrokenProcessPool("a worker was killed")

        def shutdown(self, **_) -> None: ...

    monkeypatch.setattr(drawing, "ProcessPoolExecutor", DyingPool)
    monkeypatch.setattr(drawing, "MIN_FOR_WORKERS", 1)
    monkeypatch.setattr(drawing, "cpu_count", lambda: 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.concatenate(list(drawing.draw_all(attributes, 16, progress=False))), expected)


def test_a_script_without_a_main_guard_is_run_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from helpers.data import drawing\n"
        "drawing.MIN_FOR_WORKERS, drawing.cpu_count = 1, lambda: 2\n"
        "attributes = drawing.attributes_of('train', 70, seed=0)\n"
        "print(sum(map(len, drawing.draw_all(attributes, 16, progress=False))))\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(repository_root()), os.environ.get("PYTHONPATH")])),
        },
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["70"], "")


def test_workers_and_loading_do_not_wait_for_torch() -> None:
    code = "import sys, helpers.data.drawing, helpers.data.animal_faces; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository_root()).returncode == 0
