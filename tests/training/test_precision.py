"""bfloat16 where the machine computes in it, and nowhere else."""

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from helpers.tiny_sd import train
from helpers.tiny_sd.train import main
from helpers.training import precision, run
from helpers.training.precision import StepSeconds, measure_step
from helpers.weights import read_metadata, read_tensors

TINY = [
    "--size",
    "16",
    "--limit",
    "12",
    "--widths",
    "8",
    "16",
    "--steps",
    "1",
    "--batch-size",
    "4",
    "--sample-every",
    "0",
    "--schedule",
    "inverse-sqrt",
]


def clocked(monkeypatch, seconds: dict[torch.dtype, float]) -> bool:
    monkeypatch.setattr(precision, "_product", lambda matrix: seconds[matrix.dtype])
    return precision.computes_bf16.__wrapped__("cpu")


def test_a_processor_is_asked_by_the_clock(monkeypatch):
    assert clocked(monkeypatch, {torch.float32: 4e-4, torch.bfloat16: 2e-4}), "made for it"
    assert clocked(monkeypatch, {torch.float32: 4e-4, torch.bfloat16: 8e-4}), "a busy neighbour is no reason"
    assert not clocked(monkeypatch, {torch.float32: 4e-4, torch.bfloat16: 26e-3}), "measured on a processor without"


def test_the_clock_reads_something():
    assert 0 < precision._product(torch.ones(64, 64)) < 10


def test_imitated_bf16_is_not_used_and_that_is_said(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(precision, "computes_bf16", lambda device_type: False)
    assert main([*TINY, "--precision", "bf16", "--out", str(tmp_path)]) == 0
    assert "computing in fp32" in capfd.readouterr().err
    metadata = read_metadata(tmp_path / "weights.safetensors")
    assert metadata["precision"] == "fp32" and "--precision bf16" in metadata["command"]


@pytest.mark.parametrize(
    ("seconds", "faster"),
    [
        (StepSeconds(fp32=0.3, bf16=0.1), "bf16"),
        (StepSeconds(fp32=0.3, bf16=0.29), "fp32"),  # not worth the rounding
        (StepSeconds(fp32=0.1, bf16=0.9), "fp32"),
        (StepSeconds(fp32=0.05, bf16=0.02), "fp32"),  # little to gain
    ],
)
def test_bf16_must_pay(seconds, faster):
    assert seconds.faster == faster


def test_measuring_changes_nothing_and_sees_both_precisions():
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    dtypes = []

    def loss_fn(model, generator):
        output = model(torch.randn(8, 4, generator=generator))
        dtypes.append(output.dtype)
        return output.square().mean(1), None

    before = [p.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    seconds = measure_step(model, loss_fn)
    assert seconds.fp32 > 0 and seconds.bf16 > 0
    assert set(dtypes) == {torch.float32, torch.bfloat16}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters()) and torch.equal(state, torch.get_rng_state())


@pytest.fixture
def machine(monkeypatch):
    """A processor with bf16 on which a step takes the given seconds; how often it was measured."""
    calls = []

    def set_up(seconds):
        monkeypatch.setattr(precision, "computes_bf16", lambda device_type: True)
        monkeypatch.setattr(precision, "measure_step", lambda *_: calls.append(1) or seconds)
        return calls

    return set_up


def test_auto_takes_the_faster_one_prints_it_and_records_it(tmp_path, machine, capsys):
    machine(StepSeconds(fp32=0.3, bf16=0.1))
    assert main([*TINY, "--out", str(tmp_path)]) == 0
    assert "computing in bf16: a step takes 0.3 s in fp32 and 0.1 s in bf16" in capsys.readouterr().err
    metadata = read_metadata(tmp_path / "weights.safetensors")
    assert metadata["precision"] == "bf16" and "0.1 s in bf16" in metadata["precision_reason"]


def test_auto_is_kept_on_resume_whatever_the_next_machine_prefers(tmp_path, machine):
    machine(StepSeconds(fp32=0.2, bf16=0.3))
    assert main([*TINY, "--out", str(tmp_path)]) == 0
    calls = machine(StepSeconds(fp32=0.3, bf16=0.1))
    assert main([*TINY, "--steps", "2", "--resume", "--out", str(tmp_path)]) == 0
    assert read_metadata(tmp_path / "weights.safetensors")["precision"] == "fp32" and len(calls) == 1


def test_accelerates_own_setting_does_not_change_what_precision_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as `accelerate config` and its launcher set it
    AcceleratorState._reset_state(True)
    try:
        options = train.parser().parse_args([*TINY, "--precision", "fp32", "--out", str(tmp_path)])
        assert run.Run(train.parser(), options, train.task).accelerator.mixed_precision == "no"
    finally:
        AcceleratorState._reset_state(True)


def test_accelerates_accumulation_setting_does_not_divide_the_gradients(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")  # as its launcher sets it
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    try:
        options = train.parser().parse_args([*TINY, "--out", str(tmp_path)])
        accelerator = run.Run(train.parser(), options, train.task).accelerator
        weight = nn.Parameter(torch.ones(()))
        accelerator.backward(3 * weight)
        assert weight.grad == 3
    finally:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()


def test_the_precision_is_chosen_at_the_start(tmp_path, machine):
    machine(StepSeconds(fp32=0.3, bf16=0.1))
    training = run.Run(train.parser(), train.parser().parse_args([*TINY, "--out", str(tmp_path)]), train.task)
    with pytest.raises(RuntimeError, match="call start"):
        _ = training.precision
    assert training.start() == 0 and training.precision.name == "bf16"


def test_a_busy_neighbour_during_one_round_does_not_decide(monkeypatch):
    """The clock of a machine on which one fp32 step takes ten times as long as the others."""
    duration = iter([0, 0, 0.2, 0.3, 2.0, 0.3, 0.2, 0.3])  # fp32 and bf16 in turn, the first round warms up
    clock = [0.0]

    def loss_fn(model, generator):
        clock[0] += next(duration)
        return model(torch.ones(1, 1)).square().mean(1), None

    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])
    assert measure_step(nn.Linear(1, 1), loss_fn) == pytest.approx(StepSeconds(fp32=0.2, bf16=0.3))


def test_a_prolonged_training_has_the_numbers_of_an_uninterrupted_one(tmp_path):
    def weights(folder):
        return read_tensors(tmp_path / folder / "weights.safetensors")[0]

    assert main([*TINY, "--steps", "2", "--out", str(tmp_path / "prolonged")]) == 0
    assert main([*TINY, "--steps", "4", "--resume", "--out", str(tmp_path / "prolonged")]) == 0
    assert main([*TINY, "--steps", "4", "--out", str(tmp_path / "whole")]) == 0
    whole = weights("whole")
    prolonged = weights("prolonged")
    assert all(torch.equal(whole[name], prolonged[name]) for name in whole)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_training_of_convolutions_is_the_uninterrupted_one(tmp_path, optimizer):
    """Their weights lie channels last in memory, and checkpoints hold them in the usual order."""
    from helpers.autoencoders.train import main as train_autoencoder

    common = f"--limit 8 --batch-size 2 --optimizer {optimizer} --schedule inverse-sqrt --precision fp32 --size 32"
    common = f"{common} --sample-every 0 --validate-every 0"
    for steps, folder in ((2, "resumed"), (4, "resumed"), (4, "whole")):
        resume = ["--resume"] if steps == 4 and folder == "resumed" else []
        train_autoencoder([*common.split(), "--steps", str(steps), "--out", str(tmp_path / folder), *resume])
    resumed, whole = (read_tensors(tmp_path / folder / "checkpoint.safetensors")[0] for folder in ("resumed", "whole"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
