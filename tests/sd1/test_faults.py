"""Every bad input gets an error that says what was wrong, where, and what to do."""

import sys
import types

import numpy as np
import pytest
import torch

from benchmarks.sd1.reference import SMALL
from benchmarks.sd1.refusals import argument_faults, file_faults
from helpers.sd1.pipeline import StableDiffusion1

ARGUMENTS = tuple(argument_faults(None))


@pytest.fixture(scope="module")
def files(layouts, tensors, tmp_path_factory):
    return file_faults(layouts, tensors, tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_bad_arguments(name, ours, monkeypatch):
    fault = argument_faults(ours)[name]
    monkeypatch.setattr(type(ours), "encode_text", lambda *_: pytest.fail("work was done before the refusal"))
    with pytest.raises(fault.error, match=fault.message):
        fault.call()


def test_bad_files(files, subtests, hub_out_of_reach):
    for name, fault in files.items():
        with subtests.test(name), pytest.raises(fault.error, match=fault.message):
            fault.call()


def test_there_are_enough_of_them(files):
    assert len(files) + len(ARGUMENTS) >= 50


def test_a_malicious_pickle_runs_nothing(files, capfd):
    with pytest.raises(ValueError, match="refused"):
        files["a pickle that runs code"].call()
    assert "must never be printed" not in capfd.readouterr().out


def test_a_harmless_class_name_of_an_old_trainer_is_no_obstacle(tensors, layouts, tmp_path):
    """PyTorch Lightning named its callback in the first Stable Diffusion checkpoints, and kept a score of NumPy's."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    parents = {part: types.ModuleType(part) for part in ("pytorch_lightning", "pytorch_lightning.callbacks")}
    sys.modules.update({**parents, name: module})
    try:
        callback = {"best": np.float64(0.1), "dtype": np.dtype("float32")}
        torch.save({"state_dict": tensors, "callbacks": {module.ModelCheckpoint: callback}}, tmp_path / "old.ckpt")
    finally:
        for part in (*parents, name):
            del sys.modules[part]
    StableDiffusion1.from_checkpoint(tmp_path / "old.ckpt", config=SMALL, tokenizer=layouts["tokenizer"])
