"""Every bad input gets an error that says what was wrong, where, and what to do."""

import pytest

from benchmarks.sd3.reference import stability_tensors
from benchmarks.sd3.refusals import argument_faults, file_faults

ARGUMENTS = tuple(argument_faults(None))


@pytest.fixture(scope="module")
def files(sd3, tmp_path_factory):
    return file_faults(sd3.layouts, sd3.tokenizers, stability_tensors(sd3.ours), tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_bad_arguments(name, sd3, monkeypatch):
    fault = argument_faults(sd3.ours)[name]
    monkeypatch.setattr(type(sd3.ours.encoders), "forward", lambda *_: pytest.fail("work was done before the refusal"))
    with pytest.raises(fault.error, match=fault.message):
        fault.call()


def test_bad_files(files, subtests, hub_out_of_reach):
    for name, fault in files.items():
        with subtests.test(name), pytest.raises(fault.error, match=fault.message):
            fault.call()


def test_there_are_enough_of_them(files):
    assert len(files) + len(ARGUMENTS) >= 30
