"""The model in the page, in rows.

python -m benchmarks check live    # minutes: the page in Chromium, and all models beside PyTorch in Node
python -m benchmarks live          # the same, and writes the record
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from benchmarks.live import browser, parity
from benchmarks.record import hardware, read_record, write_record
from benchmarks.report import Row, as_table, at_most, claim
from helpers.course import repository_root
from pages.browser import find_chromium
from pages.build import HTML
from pages.live.models import MODELS, shipped_models
from pages.live.node import find_node
from pages.record import ROOT

RECORD = "00_assets/results/live.json"
PROMPTS = 20  # and seeds, per model and sampler
STEPS = 12
DIFFERENCE = 1e-4
COLD = 1.5  # processor seconds on a quiet core, from the click to the first image
COLD_SD1 = 2.0
FURTHER = 0.6
LOADED = 10  # megabytes for the first image
MEMORY = 300  # megabytes of the page's process
SITE = 90  # megabytes


def check() -> list[Row]:
    """Measure everything anew."""
    record: dict[str, Any] = {}
    for part in (_beside_pytorch, _in_a_browser):
        record |= part()
    return list(_rows(record))


def run() -> None:
    """Measure everything anew, and write the record; each half is written when it is complete."""
    path = repository_root() / RECORD
    for part in (_beside_pytorch, _in_a_browser):
        write_record(path, read_record(path) | {"hardware": hardware("one thread")} | part())
    print(as_table(_rows(read_record(path))))


def _beside_pytorch() -> dict[str, Any]:
    """The largest differences to PyTorch's images; nothing, with a message, where there is no Node."""
    if find_node() is None:
        print("not checked here: the engine beside PyTorch (no Node on the path)", file=sys.stderr)
        return {}
    steps = int(os.environ.get("BENCH_LIVE_STEPS", STEPS))  # fewer are enough on a busy machine
    return {"steps": steps, "differences": parity.sweep(PROMPTS, steps)}


def _in_a_browser() -> dict[str, Any]:
    """Costs, troubles and sizes of the page in Chromium; nothing, with a message, where there is none."""
    if find_chromium() is None:
        print("not checked here: the page in a browser (no Chromium; CHROMIUM names one)", file=sys.stderr)
        return {}
    if not browser.pages_that_load_it(HTML):
        subprocess.run([sys.executable, "-m", "pages.build"], cwd=ROOT, check=True)
    names = list(shipped_models())
    return {
        "load": round(os.getloadavg()[0], 1),  # processes that wanted a core: with more than there are, times grow
        "costs": {name: browser.cost(HTML, name)._asdict() for name in names},
        "trouble": {
            place: asdict(browser.trouble_of(HTML, names, from_file))
            for place, from_file in (("http", False), ("file", True))
        },
        "pages": browser.pages_that_load_it(HTML),
        "site": sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file()) / 1e6,
    }


def _rows(record: dict[str, Any]) -> Iterator[Row]:
    for name, cost in record.get("costs", {}).items():
        yield from _cost_rows(name, cost)
    for place, trouble in record.get("trouble", {}).items():
        problems = [problem for several in trouble.values() for problem in several]
        yield at_most(f"live, Chromium, from {place}: failed or outside requests and errors", len(problems), 0)
    if "site" in record:
        yield at_most("live: the whole site", record["site"], SITE, "MB")
        others = [page for page in record["pages"] if page != browser.PAGE]
        yield claim("live: other pages that load it", len(others), "none", not others)
    for name, differences in record.get("differences", {}).items():
        for sampler, difference in differences.items():
            compared = f"difference to PyTorch, {PROMPTS} prompts and seeds, {record['steps']} steps"
            yield at_most(f"live, {name}, {sampler}: {compared}", difference, DIFFERENCE)


def _cost_rows(name: str, cost: dict[str, float]) -> Iterator[Row]:
    cold = COLD_SD1 if MODELS[name].pipeline == "sd1" else COLD
    yield at_most(f"live, {name}: first image, processor time", cost["first"], cold, "s")
    yield at_most(f"live, {name}: further images, processor time", cost["further"], FURTHER, "s")
    if name == next(iter(MODELS)):
        yield at_most(f"live, {name}: loaded for the first image", cost["megabytes_loaded"], LOADED, "MB")
    yield at_most(f"live, {name}: memory of the page", cost["megabytes_of_memory"], MEMORY, "MB")
