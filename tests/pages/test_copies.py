"""Executed copies: one is kept as long as all that its outputs depend on is as it was."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pages import build, copies, vendor

CODE = """import os
from pathlib import Path
open("00_assets/results/scores.json")
os.environ.get("PHOTOGRAPH")"""
FILES = (
    "helpers/course.py",
    "00_assets/weights/small.safetensors",
    "pages/execute.py",
    "00_assets/results/scores.json",
    "00_assets/results/other.json",
)


def _notebook(path: Path, prose: str = "# A title", code: str = CODE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell(prose), new_code_cell(code)]), path)
    return path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A notebook in a repository of five files."""
    monkeypatch.setattr(copies, "ROOT", tmp_path)
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('os.environ.get("COURSE_PROFILE")')
    return _notebook(tmp_path / "notebooks" / "01_a.ipynb")


@pytest.mark.parametrize("name", FILES)
def test_a_copy_depends_on_code_weights_and_the_files_that_it_names(path: Path, tmp_path: Path, name: str) -> None:
    before = copies.fingerprint_of(path)
    assert copies.fingerprint_of(path) == before
    (tmp_path / name).write_text("something else")
    assert (copies.fingerprint_of(path) == before) == (name == "00_assets/results/other.json")


def test_a_copy_depends_on_the_notebook_the_settings_and_the_versions(path: Path, monkeypatch) -> None:
    fingerprints = [copies.fingerprint_of(path)]
    for name in ("COURSE_PROFILE", "PHOTOGRAPH"):  # read by the helpers, read by the notebook
        with monkeypatch.context() as settings:
            settings.setenv(name, "another")
            fingerprints.append(copies.fingerprint_of(path))
    with monkeypatch.context() as changed:
        changed.setattr(copies.importlib.metadata, "version", lambda name: "99")
        fingerprints.append(copies.fingerprint_of(path))
    fingerprints.append(copies.fingerprint_of(_notebook(path, prose="# Another title")))
    fingerprints.append(copies.fingerprint_of(_notebook(path, code="1 + 1")))
    assert len(set(fingerprints)) == 6
    monkeypatch.setenv("NOBODY_READS_THIS", "another")
    assert copies.fingerprint_of(path) == fingerprints[-1]


def test_what_is_not_a_current_copy_is_removed(path: Path, tmp_path: Path) -> None:
    source = path.parent
    folder = tmp_path / "executed"
    others = [_notebook(source / name) for name in ("02_changed.ipynb", "03_killed.ipynb", "solutions/04_s.ipynb")]
    for notebook in (path, *others):
        copies.keep(
            nbformat.read(notebook, as_version=4),
            copies.copy_of(notebook, folder, source),
            copies.fingerprint_of(notebook),
        )
    _notebook(others[0], code="2 + 2")
    (folder / "03_killed.fingerprint").unlink()  # killed between the copy and its fingerprint
    _notebook(folder / "05_no_longer_there.ipynb")
    assert copies.drop_outdated([path, *others], folder, source) == [path, others[2]]
    left = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert left == ["01_a.fingerprint", "01_a.ipynb", "solutions/04_s.fingerprint", "solutions/04_s.ipynb"]


def test_an_unreadable_fingerprint_is_no_fingerprint(path: Path, tmp_path: Path) -> None:
    copy = copies.copy_of(path, tmp_path / "executed", path.parent)
    copies.keep(nbformat.read(path, as_version=4), copy, copies.fingerprint_of(path))
    assert copies.is_current(path, copy)
    copy.with_suffix(".fingerprint").write_text(copies.fingerprint_of(path)[:20])
    assert not copies.is_current(path, copy)


def test_pages_show_a_copy_where_there_is_one(tmp_path: Path) -> None:
    for name in ("01_a", "02_b"):
        _notebook(tmp_path / "notebooks" / f"{name}.ipynb", code="'stored'")
    _notebook(tmp_path / "executed" / "02_b.ipynb", code="'executed'")
    build.gather(tmp_path / "notebooks", tmp_path / "src", tmp_path / "executed")
    for name, shown in (("01_a", "stored"), ("02_b", "executed")):
        assert shown in (tmp_path / "src" / "notebooks" / f"{name}.ipynb").read_text()


@pytest.mark.parametrize(("status", "quick"), [(0, False), (0, True), (2, False)])
def test_the_pages_of_before_stay_until_the_new_ones_are_whole(tmp_path: Path, monkeypatch, status, quick) -> None:
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text("before")
    lightened = []

    def sphinx(arguments: list[str]) -> int:
        Path(arguments[-1]).mkdir()
        (Path(arguments[-1]) / "index.html").write_text("new")
        assert (tmp_path / "html" / "index.html").read_text() == "before"
        return status

    for name, value in {
        "ROOT": tmp_path,
        "HTML": tmp_path / "html",
        "UNFINISHED": tmp_path / "html.part",
        "gather": lambda folder, executed: [],
        "build_main": sphinx,
        "lighten": lightened.append,
    }.items():
        monkeypatch.setattr(build, name, value)
    monkeypatch.setattr(vendor, "fetch", lambda patience: [])
    assert build.build(quick=quick) == status
    assert (tmp_path / "html" / "index.html").read_text() == ("before" if status else "new")
    assert len(lightened) == (status == 0 and not quick)


def test_a_slow_network_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/log\nexec sleep 60\n")
    npm.chmod(0o755)
    monkeypatch.setattr(vendor, "FOLDER", tmp_path / "vendor")
    monkeypatch.setattr(vendor.shutil, "which", lambda name: str(npm))
    assert vendor.fetch(patience=1) == list(vendor.PACKAGES)
    assert (tmp_path / "log").read_text() == "asked\n"
