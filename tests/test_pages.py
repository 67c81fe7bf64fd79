"""Executing and rendering notebooks: stable bytes, clear failures, and the map of the course."""

import base64
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image
from safetensors.numpy import save_file

from helpers.tiny_sd.large_images import COMMANDS
from pages import build, evidence, execute, fill, launch, lighter, prose, record, redirects, study, vendor

FIGURE = """import numpy as np
from matplotlib import pyplot as plt
from helpers.show.figures import show
figure, axes = plt.subplots()
axes.plot([0, 1])
show(figure, alt="A rising line.")"""
SLIDER = """from helpers.show.sliders import image_slider
image_slider([np.zeros((3, 4, 4), np.uint8)] * 2, "ab", "t", alt="Nothing changes.")"""
PROGRESS = """import sys
from tqdm.auto import tqdm
for _ in tqdm(range(3)): pass
print("one"); print("two", flush=True); print("three", file=sys.stderr)"""


def _notebook(path: Path, *cells: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A small notebook"), *map(new_code_cell, cells)]), path)
    return path


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The stored bytes of one notebook, executed in place two times; it was written with random cell ids."""
    path = _notebook(tmp_path_factory.mktemp("notebooks") / "01_small.ipynb", FIGURE, SLIDER, PROGRESS)
    stored = []
    for _ in range(2):
        notebook, run = execute.execute(path)
        execute.write(notebook, path)
        stored.append(path.read_bytes())
        assert 0 < run.seconds < 120 and (run.memory is None or 0.03 < run.memory < 2)
    return stored


def test_two_executions_store_the_same_bytes(twice: list[bytes]) -> None:
    assert twice[0] == twice[1]


def test_what_is_stored_is_whole(twice: list[bytes]) -> None:
    notebook = nbformat.reads(twice[0].decode(), as_version=4)
    nbformat.validate(notebook)
    _, figure, slider, progress = notebook.cells
    assert [cell.execution_count for cell in (figure, slider, progress)] == [1, 2, 3]
    assert figure.outputs[0].metadata["image/png"]["alt"] == figure.outputs[0].data["text/plain"] == "A rising line."
    state = notebook.metadata.widgets[execute.WIDGETS]["state"]
    assert slider.outputs[0].data["application/vnd.jupyter.widget-view+json"]["model_id"] in state
    (stack,) = [model["state"] for model in state.values() if model["model_name"] == "StackModel"]
    (link,) = [model["state"] for model in state.values() if model["model_name"] == "LinkModel"]
    assert all(child.removeprefix("IPY_MODEL_") in state for child in stack["children"])
    assert link["source"][0].removeprefix("IPY_MODEL_") in state and link["source"][1] == "index"
    assert [output.text for output in progress.outputs if output.output_type == "stream"] == ["one\ntwo\n", "three\n"]


def test_nbval_agrees_with_what_is_stored_and_notices_another_number(twice: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "01_small.ipynb").write_bytes(twice[0])
    wrong = new_notebook(cells=[new_code_cell("print(0.25)", execution_count=1)])
    wrong.cells[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text="0.26\n")]
    nbformat.write(wrong, tmp_path / "02_wrong.ipynb")
    config = record.ROOT / "tests" / "nbval_sanitize.cfg"
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider"]
    command += ["--nbval-sanitize-with", str(config), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False).stdout
    assert "1 failed, 3 passed" in said and "02_wrong.ipynb::Cell 0" in said, said[-3000:]


def test_a_failing_cell_is_shown(tmp_path: Path) -> None:
    path = _notebook(tmp_path / "01_broken.ipynb", "fine = 1", "raise KeyError('what is missing')")
    with pytest.raises(CellExecutionError, match="what is missing"):
        execute.execute(path)


def test_widgets_of_an_earlier_run_are_forgotten(tmp_path: Path) -> None:
    path = _notebook(tmp_path / "01_small.ipynb", "1 + 1")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["widgets"] = {execute.WIDGETS: {"state": {"1": {"model_name": "SelectionSliderModel"}}}}
    execute.write(notebook, path)
    assert "widgets" not in execute.execute(path)[0].metadata


def test_ids_of_other_cells_stay_when_one_is_inserted() -> None:
    cells = [new_code_cell("a"), new_code_cell("b"), new_code_cell("a")]
    before = list(execute._cell_ids(cells))
    after = list(execute._cell_ids([new_code_cell("new"), *cells]))
    assert after[1:] == before and len(set(after)) == 4


def test_notebooks_come_in_reading_order_with_solutions_last(tmp_path: Path) -> None:
    for name in ("02_b", "01_a", "solutions/01_a"):
        _notebook(tmp_path / f"{name}.ipynb")
    assert [str(p.relative_to(tmp_path)) for p in execute.notebooks(folder=tmp_path)] == [
        "01_a.ipynb",
        "02_b.ipynb",
        "solutions/01_a.ipynb",
    ]
    assert [path.stem for path in execute.notebooks(["02"], tmp_path)] == ["02_b"]
    with pytest.raises(ValueError, match="no notebook is called 12; there are: 01_a, 02_b"):
        execute.notebooks(["12"], tmp_path)


def test_the_map_lists_what_exists_by_part(tmp_path: Path) -> None:
    for name in ("01_data", "09_tiny", "11_tiny", "solutions/01_solutions"):
        _notebook(tmp_path / "notebooks" / f"{name}.ipynb")
    build.gather(tmp_path / "notebooks", tmp_path / "src")
    index = (tmp_path / "src" / "index.md").read_text()
    assert index.index("### Data") < index.index("### Tiny Stable Diffusion") < index.index(":caption: Solutions")
    assert "- 09 [A small notebook](notebooks/09_tiny.ipynb)" in index and "### Autoencoders" not in index
    assert (tmp_path / "src" / "notebooks" / "solutions" / "01_solutions.ipynb").is_file()


def test_the_sidebar_numbers_the_notebooks_and_folds_the_solutions_away(tmp_path: Path) -> None:
    for name in ("01_data", "09_tiny", "solutions/01_solutions", "solutions/09_solutions"):
        _notebook(tmp_path / "notebooks" / f"{name}.ipynb")
    build.gather(tmp_path / "notebooks", tmp_path / "src")
    index = (tmp_path / "src" / "index.md").read_text().splitlines()
    assert "01 A small notebook <notebooks/01_data>" in index
    assert [line for line in index if "solutions/" in line] == ["Solutions <notebooks/solutions/index>"]
    folded = (tmp_path / "src" / "notebooks" / "solutions" / "index.md").read_text().splitlines()
    assert folded[0] == "# Solutions" and "01 A small notebook <01_solutions>" in folded
    assert "- 09 [A small notebook](09_solutions.ipynb)" in folded


def test_a_course_without_notebooks_still_has_a_map(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    assert build.gather(tmp_path / "notebooks", tmp_path / "src") == []
    assert "<!-- contents -->" not in (tmp_path / "src" / "index.md").read_text()


def test_pages_name_the_network_only_where_there_is_no_local_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor, "FOLDER", tmp_path)
    assert vendor.script("mathjax") == "https://cdn.jsdelivr.net/npm/mathjax@3.2.2/es5/tex-mml-chtml.js"
    (tmp_path / "mathjax" / "es5").mkdir(parents=True)
    (tmp_path / "mathjax" / "es5" / "tex-mml-chtml.js").touch()
    assert vendor.script("mathjax") == "vendor/mathjax/es5/tex-mml-chtml.js"
    assert vendor.missing() == ["requirejs", "html-manager"]


def test_fetching_without_npm_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendor, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert vendor.fetch() == list(vendor.PACKAGES)


def test_of_a_package_only_what_is_needed_is_taken(tmp_path: Path) -> None:
    names = ["LICENSE", "dist/embed-amd.js", "dist/embed.js.map", "dist/0a1b.woff2", "dist/0a1b.svg"]
    for name in names:
        file = tmp_path / "package" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    with tarfile.open(tmp_path / "packed.tgz", "w:gz") as packed:
        packed.add(tmp_path / "package", "package")
    vendor._unpack(tmp_path / "packed.tgz", vendor.PACKAGES["html-manager"][1], tmp_path / "there")
    there = tmp_path / "there"
    taken = sorted(str(path.relative_to(there)) for path in there.rglob("*") if path.is_file())
    assert taken == ["LICENSE", "dist/0a1b.woff2", "dist/embed-amd.js"]


def test_pictures_of_pages_become_smaller_and_are_found(tmp_path: Path) -> None:
    (tmp_path / "_images").mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    noise.save(tmp_path / "_images" / "noise.png")
    dot = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(dot, "PNG", compress_level=0)
    data = base64.b64encode(dot.getvalue()).decode()
    page = tmp_path / "page.html"
    page.write_text(f'<img src="_images/noise.png"><img src="data:image/png;base64,{data}">')
    source_map = tmp_path / "_static" / "scripts" / "theme.js.map"
    source_map.parent.mkdir(parents=True)
    source_map.write_text("{}")
    lighter.lighten(tmp_path)
    assert not source_map.exists()
    assert [path.name for path in (tmp_path / "_images").iterdir()] == ["noise.webp"]
    first, second = re.findall(r'src="([^"]+)"', page.read_text())
    assert first == "_images/noise.webp" and len(second) < len(data)
    image = Image.open(io.BytesIO(base64.b64decode(second.removeprefix("data:image/webp;base64,"))))
    assert image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)  # lossless where it is small


def test_what_sliders_show_comes_after_what_is_read() -> None:
    state = '<script type="application/vnd.jupyter.widget-state+json">{"state": {}}</script>'
    page = f"<html><head>{state}<title>x</title></head><body><p>read</p></body></html>"
    assert lighter.sliders_last(page) == f"<html><head><title>x</title></head><body><p>read</p>{state}\n</body></html>"
    assert lighter.sliders_last("<body>none</body>") == "<body>none</body>"


def test_times_are_kept_beside_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "results" / "course.json"
    record.record({"05_b": record.Run(3.21, 0.5)}, path)
    record.record({"99_a": record.Run(1.0), "99_solutions": record.Run(2.0)}, path)
    known = json.loads(path.read_text())
    assert known["seconds"] == {"05_b": 3.2, "99_a": 1.0, "99_solutions": 2.0} and known["memory"] == {"05_b": 0.5}
    assert list(known["seconds"]) == ["05_b", "99_a", "99_solutions"]
    lines = record.table(path)
    assert lines[3] == "| [99_a](notebooks/99_a.ipynb) |  |  |  | 1 s |  |"  # without a plan
    assert lines[2] == "| [05 Stable Diffusion 1](notebooks/05_b.ipynb) | 02, 03, 04 | medium | 3 h | 3 s | 0.5 GB |"
    assert "about 3 hours in all" in lines[-1]
    assert "| understand Stable Diffusion | [05](notebooks/05_b.ipynb) | 11½ h |" in record.routes(path)
    unmeasured = record.table(path, lessons=["05_b", "02_c"])
    assert unmeasured[2] == "| [02 DDPM from scratch](notebooks/02_c.ipynb) |  | hard | 2½ h | not measured yet |  |"
    assert unmeasured[3] == lines[2] and len(unmeasured) == len(lines) + 1
    assert f"torch {known['measured_with']['torch']}" in record.stamp(path)
    assert record.stamp(tmp_path / "nothing.json") == "" and record.table(tmp_path / "nothing.json") == []
    assert record.routes(tmp_path / "nothing.json") == []


def test_the_study_plan_knows_every_notebook_and_what_it_builds_on() -> None:
    """A notebook names what it needs itself; the plan names no other one, and none that comes later."""
    texts = {name[:2]: text for name, text in prose.texts().items() if name[:2].isdigit() and "solutions" not in name}
    assert list(study.PLANS) == sorted(texts)
    for number, plan in study.PLANS.items():
        needs = re.search(r"\*\*(?:You need|Prerequisites):?\*\*(.*)", texts[number])[1]
        assert set(plan.before) <= set(re.findall(r"\b\d\d\b", needs)), f"notebook {number} needs{needs}"
        assert all(before < number for before in plan.before)
    assert all(set(numbers) <= set(study.PLANS) for numbers in study.ROUTES.values())
    assert [study.hours(count) for count in (2, 1.5, 0.5)] == ["2 h", "1½ h", "½ h"]


def test_the_first_notebook_shows_the_routes_of_the_study_plan() -> None:
    text = prose.texts()["00_first_success"]
    known = {"seconds": {path.stem: 1.0 for path in execute.notebooks()}}
    lines = record.route_lines(known, folder=".")
    assert len(lines) == 2 + len(study.ROUTES)
    for line in lines[2:]:
        assert line.replace("(./", "(") in text, line
    for number, plan in list(study.PLANS.items())[1:]:
        (link,) = re.findall(rf"^\| \[{number} [^]]+\]\(({number}_\w+)\.ipynb\) \| .+\? \|$", text, re.MULTILINE)
        assert (execute.NOTEBOOKS / f"{link}.ipynb").is_file(), plan.title


def test_what_was_measured_and_tried_becomes_tables(tmp_path: Path) -> None:
    time = {
        "what": "time",
        "peer": "a library",
        "ratio": 0.913,
        "spread": [0.88, 0.96],
        "ok": True,
        "promised": "<= 1",
        "hardware": "a computer",
    }
    rows = [time, time | {"what": "memory", "ratio": 1.2, "spread": None, "ok": False}]
    (tmp_path / "beside.json").write_text(json.dumps({"rows": rows}))
    lines = evidence.beside(tmp_path / "beside.json")
    assert (
        lines[2:4]
        == ["| time | a library | 0.91 | 0.88 to 0.96 | <= 1 |", "| memory | a library | 1.20 (short) |  | <= 1 |"]
        and "a computer" in lines[-1]
    )
    fault = {"fault": "killed", "tried": 20, "noticed": 20, "lost": "4 steps"}
    (tmp_path / "faults.json").write_text(json.dumps({"faults": [fault]}))
    assert evidence.faults(tmp_path / "faults.json")[2:] == ["| killed | 20 | 20 | 4 steps |"]
    assert evidence.beside(tmp_path / "none.json") == evidence.faults(tmp_path / "none.json") == []
    training = {"method": "own", "compiled": True, "images_per_second": 99.6, "peak_gib": 3.21, "utilisation": 0.414}
    record = {"hardware": "a card", "cap_gib": 16.0, "trainings": [training]}
    (tmp_path / "cuda.json").write_text(json.dumps(record))
    assert evidence.cuda(tmp_path / "cuda.json")[-1] == "| own | yes | 100 | 3.2 | 41% |"
    assert "nothing has been measured" in evidence.cuda(tmp_path / "none.json")[0]


def test_what_each_change_bought_becomes_a_table_for_each_method(tmp_path: Path) -> None:
    row = {
        "method": "pretrained",
        "change": "batch 64",
        "core_minutes": 45,
        "seeds": 3,
        "kid": 0.0784,
        "kid_std": 0.004,
        "judged": 91.7,
        "note": "a|b",
        "kept": True,
        "processor": "a processor",
    }
    rows = [row, row | {"method": "pixels", "seeds": 1, "kid_std": None, "kept": False}, row | {"change": "Muon"}]
    (tmp_path / "recipes.json").write_text(json.dumps(rows))
    lines = evidence.recipes(tmp_path / "recipes.json")
    assert [line for line in lines if line.startswith("## ")] == [
        "## Method 1: in pixels",
        "## Method 2: in the latents of a pretrained autoencoder",
    ]
    assert lines[4] == r"| batch 64 | 45 | 1 | 0.078 | 92 % | no | a\|b |"
    assert lines[10].replace("\u00a0", " ") == r"| batch 64 | 45 | 3 | 0.078 ± 0.004 | 92 % | yes | a\|b |"
    assert lines[11].startswith("| Muon | ") and lines[-1] == "Measured on a processor."
    assert evidence.recipes(tmp_path / "none.json") == ["The measurements are under way."]


def test_weights_tell_what_trained_them(tmp_path: Path) -> None:
    about = {
        "command": "python -m train --method own",
        "source": "animal-faces",
        "core_minutes": "45.6",
        "photographs": "9 cat, 8 dog",
    }
    older = {"command": "python -m train", "seconds": "300", "threads": "2"}
    for name, metadata in (("a", about), ("b", older), ("c", {"command": "python -m train"})):
        save_file({"weight": np.zeros(1)}, tmp_path / f"{name}.safetensors", metadata)
    assert "\n".join(evidence.shipped(tmp_path)).split("\n\n") == [
        "```sh\n# a: 9 cat, 8 dog (photographs: non-commercial use only), 46 core-minutes\n"
        "python -m train --method own",
        "# b: synthetic faces, 10 core-minutes\npython -m train",
        "# c: synthetic faces\npython -m train\n```",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folded_command_is_the_same_command(command: str) -> None:
    text = evidence.folded(command)
    assert max(map(len, text.splitlines())) <= 74
    assert " ".join(text.replace("\\\n", " ").split()) == command
    assert all(line.lstrip().startswith(("python", "--")) for line in text.splitlines())


def test_tables_stand_between_their_marks() -> None:
    text = "before\n<!-- a -->\nold\n<!-- /a -->\n<!-- b -->\nkept\n<!-- /b -->"
    once = fill.filled(text, {"a": ["| new |"]})
    assert once == text.replace("old", "| new |") and fill.filled(once, {"a": ["| new |"]}) == once


def test_readme_and_pages_show_what_was_recorded() -> None:
    marks = {
        name: {path.name for path in fill.places() if f"<!-- {name} -->" in path.read_text()}
        for name in fill.fillings("notebooks")
    }
    assert all(marks.values()), marks
    assert marks["times"] == {"README.md", "time_and_memory.md"} and marks["beside"] == {"evidence.md"}
    for path in fill.places():
        assert fill.up_to_date(path) == path.read_text(), f"{path.name} shows older records: python -m pages.fill"


def test_the_fingerprint_sees_outputs_and_code_not_prose() -> None:
    def digest(prose: str = "", code: str = "1", said: str = "1") -> str:
        cell = new_code_cell(code, outputs=[nbformat.v4.new_output("stream", text=said)])
        return record.outputs_digest(new_notebook(cells=[new_markdown_cell(prose), cell]))

    assert digest() == digest(prose="other") and len({digest(), digest(code="2"), digest(said="2")}) == 3


def test_a_page_can_be_downloaded_and_opened_in_colab_where_the_course_is_on_github(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _notebook(tmp_path / "notebooks" / "01_data.ipynb", "1 + 1")
    for address, there in (("https://github.com/someone/course.git", True), ("", False)):
        monkeypatch.setenv("COURSE_REPOSITORY", address)
        if not address:
            monkeypatch.setattr(launch, "repository", lambda: None)
        build.gather(tmp_path / "notebooks", tmp_path / "src")
        first = nbformat.read(tmp_path / "src" / "notebooks" / "01_data.ipynb", as_version=4).cells[0].source
        assert first.startswith("# A small notebook\n\n{download}`Download this notebook <../downloads/01_data.ipynb>`")
        link = "(https://colab.research.google.com/github/someone/course/blob/main/notebooks/01_data.ipynb)"
        assert (link in first) == there and ("git clone" in first) == there
    (code,) = nbformat.read(tmp_path / "src" / "downloads" / "01_data.ipynb", as_version=4).cells[1:]
    assert code.source == "1 + 1" and code.outputs == [] and code.execution_count is None


@pytest.mark.parametrize("clone", [True, False])
def test_without_git_or_inside_another_repository_there_is_no_link(monkeypatch, tmp_path: Path, clone: bool) -> None:
    monkeypatch.delenv("COURSE_REPOSITORY", raising=False)
    outer = tmp_path / "outer"
    for arguments in (
        ["init", "-q", str(outer)],
        ["-C", str(outer), "remote", "add", "origin", "https://github.com/a/b"],
    ):
        subprocess.run(["git", *arguments], check=True)
    (outer / "course").mkdir()
    monkeypatch.setattr(launch, "ROOT", outer)
    assert launch.repository() == "a/b"
    if clone:
        monkeypatch.setattr(launch, "ROOT", outer / "course")
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    assert launch.repository() is None


def test_an_address_that_is_no_repository_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_REPOSITORY", "https://example.org/course")
    with pytest.raises(ValueError, match="should read like https://github.com/owner/name"):
        launch.repository()


def test_addresses_of_before_lead_to_the_notebooks_of_today(tmp_path: Path) -> None:
    stems = {path.stem for path in execute.NOTEBOOKS.glob("*.ipynb")}
    assert set(redirects.MOVED.values()) <= stems and not set(redirects.MOVED) & stems
    (tmp_path / "notebooks").mkdir()
    for stem in stems:
        (tmp_path / "notebooks" / f"{stem}.html").write_text("the page")
    redirects.write(tmp_path)
    old = (tmp_path / "notebooks" / "08_tiny_sd_pretrained_vae.html").read_text()
    assert 'url=11_tiny_sd_pretrained_vae.html"' in old
    assert (tmp_path / "notebooks" / "11_tiny_sd_pretrained_vae.html").read_text() == "the page"
