"""The counts of `python -m benchmarks check faults` are those of tests that ran and passed."""

from pathlib import Path

import pytest

from benchmarks.faults import inputs
from benchmarks.faults.inputs import Tries

SAMPLE = """
import pytest

@pytest.mark.fault("images", refused=True)
@pytest.mark.parametrize("value", [1, 2, 3])
def test_value(value):
    assert value < 3

@pytest.mark.fault("images")
def test_fine():
    pass

@pytest.mark.fault("seeds", refused=True)
def test_skipped():
    pytest.skip("not here")

@pytest.mark.fault("caches", refused=True)
def test_no_fixture(nowhere):
    pass

def test_unmarked():
    assert False
"""


def test_only_what_passed_is_counted(tmp_path: Path):
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "test_other.py").write_text("def test_nothing():\n    pass\n")
    files = inputs.marked_files(tmp_path)
    assert [file.name for file in files] == ["test_sample.py"]
    kinds = inputs.try_all(files)
    assert kinds == {"images": Tries(4, 3, 2), "caches": Tries(1, 0, 0)}
    rows = inputs.rows(kinds)
    assert [row.ok for row in rows] == [False, False, False]
    assert rows[1].measured == "3 of 4 as promised, 2 with their message"


def test_a_pytest_that_does_not_run_is_no_success(tmp_path: Path):
    with pytest.raises(RuntimeError, match="pytest did not run"):
        inputs.try_all([tmp_path / "--no-such-option" / "test_nowhere.py", Path("--no-such-option")])


def test_enough_refusals_are_enough():
    kinds = {"images": Tries(inputs.REFUSED, inputs.REFUSED, inputs.REFUSED)}
    assert all(row.ok for row in inputs.rows(kinds))
    assert not inputs.rows({"images": Tries(9, 9, inputs.REFUSED - 1)})[-1].ok


def test_every_kind_of_this_repository_has_marked_tests():
    sources = "\n".join(file.read_text() for file in inputs.marked_files(Path(__file__).parent))
    for kind in ("images", "seeds", "numbers", "archives", "caches", "options", "foreign errors and rows", "slices"):
        assert f'fault("{kind}"' in sources or f'"{kind}"' in sources, kind
