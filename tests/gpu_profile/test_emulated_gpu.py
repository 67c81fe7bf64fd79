"""The emulated device obeys the rules of CUDA, one test for each."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.gpu_profile.emulated_gpu import GENERATOR, emulated_cuda

MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    """Every test has the device, and afterwards all is as before."""
    with emulated_cuda():
        yield
    assert torch.Generator is GENERATOR and type(torch.zeros(1) + 1) is torch.Tensor


def test_a_tensor_says_where_it_is() -> None:
    x = torch.zeros(3, device="cuda")
    assert (x.device, x.device.type, x.is_cuda, x.get_device()) == (torch.device("cuda:0"), "cuda", True, 0)
    y = torch.zeros(3)
    assert (y.device, y.is_cuda, y.is_cpu) == (torch.device("cpu"), False, True)


@pytest.mark.parametrize(
    "mix",
    [
        lambda gpu, cpu: gpu + cpu,
        lambda gpu, cpu: cpu * gpu,
        lambda gpu, cpu: gpu @ cpu,
        lambda gpu, cpu: gpu.add_(cpu),
        lambda gpu, cpu: cpu.add_(gpu),
        lambda gpu, cpu: torch.cat([gpu, cpu]),
        lambda gpu, cpu: torch.where(cpu > 0, gpu, gpu),
        lambda gpu, cpu: torch.equal(gpu, cpu),
        lambda gpu, cpu: F.linear(gpu, cpu),
        lambda gpu, cpu: F.mse_loss(gpu, target=cpu),
        lambda gpu, cpu: torch.gather(gpu, 0, cpu.long()),
        lambda gpu, cpu: nn.Linear(2, 2)(gpu),
        lambda gpu, cpu: nn.Linear(2, 2).to("cuda")(cpu),
        lambda gpu, cpu: cpu + gpu.sum(),
        lambda gpu, cpu: torch.stack([gpu.sum(), cpu.sum()]),
    ],
)
def test_tensors_of_both_devices_do_not_mix(mix) -> None:
    with pytest.raises(RuntimeError, match=MIXED):
        mix(torch.ones(2, 2, device="cuda"), torch.ones(2, 2))


def test_a_cpu_tensor_without_dimensions_mixes() -> None:
    x = torch.ones(2, device="cuda")
    assert (x * torch.tensor(2.0)).device.type == "cuda"
    assert torch.where(x > 0, x, torch.tensor(0.0)).tolist() == [1, 1]


@pytest.mark.parametrize(
    "write",
    [
        lambda gpu, cpu: cpu.add_(gpu),
        lambda gpu, cpu: cpu.__iadd__(gpu),
        lambda gpu, cpu: torch.add(gpu, gpu, out=cpu),
    ],
)
def test_a_cpu_tensor_without_dimensions_is_not_written_to(write) -> None:
    with pytest.raises(RuntimeError, match=MIXED):
        write(torch.tensor(1.0, device="cuda"), torch.tensor(1.0))
    assert torch.tensor(1.0).copy_(torch.tensor(2.0, device="cuda")) == 2  # a move


def test_a_single_index_must_be_on_the_device_to_look_up_a_row() -> None:
    table = torch.eye(2, device="cuda")
    index = torch.tensor(1)
    for look_up in (lambda i: F.embedding(i, table), lambda i: table.index_select(0, i)):
        assert look_up(index.cuda()).flatten().tolist() == [0, 1]
        with pytest.raises(RuntimeError, match=MIXED):
            look_up(index)


def test_autocast_computes_in_bfloat16_on_the_device_only() -> None:
    layer = nn.Linear(2, 2).to("cuda")
    x = torch.ones(3, 2, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        y = layer(x)
        assert (y.dtype, y.device.type) == (torch.bfloat16, "cuda")
        assert nn.Linear(2, 2)(torch.ones(3, 2)).dtype == torch.float32
        with pytest.raises(RuntimeError, match="must have the same scalar type"):
            torch.zeros(2, 2, device="cuda").index_add_(0, torch.zeros(3, dtype=torch.long, device="cuda"), y)
        with torch.autocast("cuda", enabled=False):
            assert layer(x).dtype == torch.float32
    y.float().sum().backward()
    assert layer(x).dtype == layer.weight.grad.dtype == torch.float32


def test_indices_may_be_on_the_cpu_but_not_the_other_way_round() -> None:
    x = torch.arange(3.0, device="cuda")
    assert x[torch.tensor([2, 0])].tolist() == [2, 0]
    assert x[torch.tensor([True, False, False])].device.type == "cuda"
    with pytest.raises(RuntimeError, match=r"indices should be either on cpu or on the same device .* \(cpu\)"):
        torch.arange(3)[torch.tensor([0], device="cuda")]


def test_assignment_copies_into_a_slice_and_refuses_values_of_the_other_device_at_indices() -> None:
    x = torch.zeros(3, device="cuda")
    x[:2] = torch.ones(2)
    assert x.tolist() == [1, 1, 0]
    with pytest.raises(RuntimeError, match=MIXED):
        x[torch.tensor([0, 1])] = torch.ones(2)


def test_moving_copies_and_keeps_gradients() -> None:
    x = torch.ones(2, requires_grad=True)
    for there in (
        x.to("cuda"),
        x.cuda(),
        x.to(torch.zeros(1, device="cuda")),
        x.to(device="cuda", dtype=torch.float64),
    ):
        assert there.device.type == "cuda"
        assert there.data_ptr() != x.data_ptr()
    there.sum().backward()
    assert x.grad.tolist() == [1, 1] and x.grad.device.type == "cpu"
    y = torch.ones(2, device="cuda")
    assert y.to("cuda") is y
    assert y.half().device.type == "cuda" and y.cpu().device.type == "cpu"
    assert y.cpu().data_ptr() != y.data_ptr()


def test_results_stay_on_the_device() -> None:
    x = torch.rand(4, 2, device="cuda")
    results = [x.min(0).values, *x.split(2), *x, torch.zeros_like(x), x.new_zeros(2), x.T, x[0], x.sum(), x.data]
    assert {result.device.type for result in results} == {"cuda"}
    assert torch.zeros_like(x, device="cpu").device.type == "cpu"
    assert torch.tensor([x.sum()]).device.type == "cpu"  # a list of numbers


def test_numpy_is_refused() -> None:
    x = torch.ones(2, device="cuda")
    for convert in (lambda: x.numpy(), lambda: np.asarray(x), lambda: np.stack([x, x])):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()"):
            convert()
    assert x.cpu().numpy().tolist() == x.tolist() == [1, 1]


def test_a_generator_must_be_on_the_device() -> None:
    on_cpu = torch.Generator().manual_seed(0)
    on_gpu = torch.Generator("cuda").manual_seed(0)
    assert (on_cpu.device.type, on_gpu.device.type) == ("cpu", "cuda")
    assert torch.randn(2, generator=on_gpu, device="cuda").device.type == "cuda"
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
        torch.randn(2, generator=on_cpu, device="cuda")
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator but found 'cuda'"):
        torch.randn(2, generator=on_gpu)


def test_a_network_trains_on_the_device_and_its_copies_stay_there() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 1)).to("cuda")
    before = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.rand(2, 1, 4, 4, device="cuda")).sum().backward()
    optimizer.step()
    assert {x.device.type for x in (*network.parameters(), *network.buffers(), network[0].weight.grad)} == {"cuda"}
    assert {x.device.type for x in before.state_dict().values()} == {"cuda"}
    assert not torch.equal(before[0].weight, network[0].weight)
    network.cpu()
    assert {x.device.type for x in network.parameters()} == {"cpu"} and len(list(network.parameters())) == 6
    network.load_state_dict(before.state_dict())
    assert torch.equal(network[0].weight, before[0].weight.cpu())


def test_comparisons_see_the_device() -> None:
    x = torch.ones(2)
    with pytest.raises(AssertionError, match="'device' do not match"):
        torch.testing.assert_close(x.cuda(), x)
