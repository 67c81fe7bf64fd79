"""Training as it is measured on a GPU; a few steps of it wherever there is CUDA, and its arithmetic without."""

import pytest
import torch

from benchmarks import cuda

SMALL = ("--size", "16", "--limit", "60", "--widths", "8", "16", "--blocks", "1", "--batch-size", "4")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cuda.run()
    assert "not measured here" in capsys.readouterr().out


@pytest.mark.parametrize("method", cuda.METHODS)
def test_what_is_measured_of_a_training(method):
    measured = cuda.measured(method, compiled=False, more=SMALL, steps=2, warm=1)
    assert measured["images_per_second"] > 0 and measured["parameters"] > 10_000
    assert measured["teraflops"] > 0 and (measured["peak_gib"] > 0) == torch.cuda.is_available()


@needs_cuda
@pytest.mark.parametrize("method", cuda.METHODS)
def test_every_method_trains_within_16_gib(method):
    measured = cuda.measured(method, compiled=False, steps=3, warm=1)
    assert 0 < measured["peak_gib"] < 16


@needs_cuda
def test_a_matrix_product_is_measured():
    assert cuda.matmul_speed(1024, times=3) > 0
