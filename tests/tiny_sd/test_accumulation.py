"""Gradient accumulation: a batch in parts trains like a whole one."""

import json

import pytest
import torch
from safetensors.torch import load_file

from helpers.tiny_sd.train import main
from helpers.training.processes import Accumulation, SingleProcess, process_share

from .test_train import TINY

pytestmark = pytest.mark.usefixtures("one_home")
WITHOUT_DROPOUT = [*TINY, "--dropout", "0", "--validate-every", "0", "--steps", "6", "--checkpoint-every", "0"]


class TwoProcesses(SingleProcess):
    num_processes = 2
    process_index = 1


def test_the_parts_make_up_the_share_of_a_process():
    batch = torch.arange(24)
    accumulation = Accumulation(TwoProcesses(), 3)
    parts = [process_share(accumulation, batch) for _ in accumulation]
    assert torch.cat(parts).sort().values.tolist() != process_share(TwoProcesses(), batch).tolist()  # other rows, and
    first = Accumulation(SingleProcess(), 3)  # all processes together see each row once
    others = [process_share(first, batch) for _ in first]
    assert torch.cat(others).sort().values.tolist() == list(range(24))
    shares = [Accumulation(type("P", (TwoProcesses,), {"process_index": index})(), 3) for index in (0, 1)]
    rows = torch.cat([process_share(share, batch) for share in shares for _ in share])
    assert rows.sort().values.tolist() == list(range(24)) and accumulation.part == 0


@pytest.mark.parametrize("parts", [2, 8])
def test_a_batch_in_parts_trains_like_a_whole_one(parts, tmp_path):
    for name, options in (("whole", []), ("parts", ["--gradient-accumulation", str(parts)])):
        assert main([*WITHOUT_DROPOUT, *options, "--out", str(tmp_path / name)]) == 0
    whole, in_parts = ([row["loss"] for row in rows(tmp_path / name)] for name in ("whole", "parts"))
    assert in_parts == pytest.approx(whole, rel=1e-4)
    expected = load_file(tmp_path / "whole" / "weights.safetensors")
    for name, tensor in load_file(tmp_path / "parts" / "weights.safetensors").items():
        torch.testing.assert_close(tensor.float(), expected[name].float(), rtol=0.01, atol=2e-3)


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_batch_that_has_no_such_parts_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="--batch-size 8 cannot be shared evenly by 1 processes in 3 parts each"):
        main([*TINY, "--gradient-accumulation", "3", "--out", str(tmp_path)])


def test_other_parts_are_another_training(tmp_path):
    assert main([*WITHOUT_DROPOUT, "--out", str(tmp_path)]) == 0
    with pytest.raises(SystemExit, match="--gradient-accumulation was 1, is 2"):
        main([*WITHOUT_DROPOUT, "--gradient-accumulation", "2", "--resume", "--out", str(tmp_path)])
