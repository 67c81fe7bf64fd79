"""A pretended GPU for tests on computers without one: it computes on the CPU and refuses mistakes.

    with emulated_cuda():
        x = torch.ones(3, device="cuda")
        x + torch.ones(3)  # RuntimeError: Expected all tensors to be on the same device, ...

    with emulated_mps():
        torch.ones(3, device="mps").double()  # TypeError: Cannot convert a MPS Tensor to float64 dtype ...

A tensor "on" the device is an ordinary CPU tensor whose class is `DeviceTensor`, so values and gradients are real. A
`TorchFunctionMode` sees every call of PyTorch before it runs, and answers as CUDA would:

1. Tensors of both devices in one call are refused. Allowed are CPU tensors without dimensions (except where the call
   writes into them, and in `NO_MIXED_SCALARS`), CPU indices of a tensor on the device, and calls that move data or only
   read a shape (`MIXING_ALLOWED`).
2. Results are on the device of the arguments, or on the one that `device=`, `to`, `cuda` or `cpu` names; moving copies.
3. `numpy()` and NumPy's own conversion are refused on the device.
4. A random generator has to be on the device of the tensor that it fills.
5. Under `torch.autocast("cuda", torch.bfloat16)` matrix products and convolutions on the device return bfloat16, so
   that what refuses tensors of two dtypes refuses them here too. Which other functions autocast changes is taken from
   the CPU's list; CUDA's has more that compute in float32, such as group norm.
6. Apple's device refuses float64, and decompositions of matrices that PyTorch lacks for it (`NOT_ON_MPS`).

PyTorch's `FakeTensorMode` emulates devices too, but its tensors have no values, and a notebook prints and plots them.
Not emulated: speed, memory, the arithmetic of the card's kernels, and what C++ code does without a call from Python.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # its tables of PyTorch's functions must not see the replaced ones
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda", 0)
MPS = torch.device("mps", 0)
NOT_ON_MPS = {torch.linalg.eigh, torch.linalg.eigvalsh, torch.linalg.qr}
GENERATOR = torch.Generator  # PyTorch's own, while `Generator` stands in for it

READ_ONLY = {Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.requires_grad.__get__, Tensor.dim, Tensor.size}
MIXING_ALLOWED = {
    Tensor.copy_,
    Tensor.data.__set__,
    Tensor.new_tensor,
    Tensor.expand_as,
    Tensor.view_as,
    Tensor.reshape_as,
    torch.is_same_size,
    torch._has_compatible_shallow_copy_type,
}
JOINING = {torch.cat, torch.concat, torch.stack, torch.hstack, torch.vstack}
INDEXED = {F.embedding, torch.index_select, Tensor.index_select, Tensor.index_add, Tensor.index_add_}
NO_MIXED_SCALARS = JOINING | INDEXED  # these are not elementwise: a CPU tensor without dimensions is refused as well
FROM_VALUES = {torch.tensor, torch.as_tensor, torch.asarray}


class Emulated:
    """Which device is emulated."""

    device = CUDA


class DeviceTensor(Tensor):
    """A tensor on the emulated device; in another thread, where the mode is not active, it acts the same."""

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return call(func, args, kwargs or {})


class Generator(GENERATOR):
    """A random generator that remembers for which device it was made."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        generator = super().__new__(cls, "cpu")
        generator.emulated = torch.device(device).type == Emulated.device.type
        return generator

    @property
    def device(self) -> torch.device:
        """The device, emulated or real."""
        return Emulated.device if self.emulated else torch.device("cpu")


class _Mode(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return call(func, args, kwargs or {})


def on_device(x: Any) -> bool:
    """Whether a tensor is on the emulated device."""
    return isinstance(x, DeviceTensor)


def call(func: Callable, args: tuple, kwargs: dict) -> Any:
    """Run a function of PyTorch as it would run with CUDA; raises RuntimeError or TypeError where CUDA would."""
    if func in READ_ONLY:
        return _run(func, args, kwargs)
    if func in SPECIAL:
        return SPECIAL[func](func, args, kwargs)
    tensors = list(_tensors((args, kwargs)))
    if func not in MIXING_ALLOWED:
        scalars_pass = func not in NO_MIXED_SCALARS and not _writes_to_cpu(func, args, kwargs)
        _refuse_mixture(tensors, zero_dimensional=scalars_pass)
    wanted = kwargs.get("device")
    if wanted is None:
        if func in FROM_VALUES:  # lists become CPU tensors, also lists of numbers on the device
            tensors = [x for x in args[:1] if isinstance(x, Tensor)]
        first = args[0] if args and isinstance(args[0], Tensor) else None
        target = on_device(first) if func in MIXING_ALLOWED else any(map(on_device, tensors))
    elif _is_emulated(wanted):
        target = True
        kwargs = kwargs | {"device": "cpu"}
    else:
        target = False
    _check_generator(args, kwargs, target)
    if not target:
        return _run(func, args, kwargs)
    if func in NOT_ON_MPS and Emulated.device == MPS:
        raise NotImplementedError(f"The operator '{func.__name__}' is not currently implemented for the MPS device.")
    with _autocast():
        result = _run(func, args, kwargs)
    return _placed(result, tensors)


def _autocast() -> AbstractContextManager:
    """What autocast does on the device, done on the CPU."""
    kind = Emulated.device.type
    if not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast("cpu", torch.get_autocast_dtype(kind))


def _run(func: Callable, args: tuple, kwargs: dict) -> Any:
    """Run the function on the real tensors, and let it see what it really is."""
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _tensors(values: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _refuse_mixture(tensors: list[Tensor], zero_dimensional: bool) -> None:
    """Raise RuntimeError for tensors of both devices; `zero_dimensional`: one on the CPU without dimensions passes."""
    if any(map(on_device, tensors)):
        for x in tensors:
            if not on_device(x) and not (zero_dimensional and _run(Tensor.dim, (x,), {}) == 0):
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two devices, "
                    f"{Emulated.device} and cpu!"
                )


def _writes_to_cpu(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether the result is written into a CPU tensor: x.add_(y), x += y, torch.add(y, z, out=x)."""
    name = getattr(func, "__name__", "")
    in_place = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
    changed = args[0] if in_place and args else kwargs.get("out")
    return isinstance(changed, Tensor) and not on_device(changed)


def _check_generator(args: tuple, kwargs: dict, target: bool) -> None:
    """Raise RuntimeError for a generator of the other device."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, GENERATOR) and getattr(value, "emulated", False) != target:
            kind = Emulated.device.type
            expected, found = (kind, "cpu") if target else ("cpu", kind)
            raise RuntimeError(f"Expected a '{expected}' device type for generator but found '{found}'")


def _is_emulated(device: Any) -> bool:
    return not isinstance(device, torch.dtype) and torch.device(device).type == Emulated.device.type


def _placed(result: Any, arguments: list[Tensor]) -> Any:
    """Mark new tensors as being on the device; an argument that is returned, as in-place functions do, stays."""
    if isinstance(result, Tensor):
        if not on_device(result) and not any(result is x for x in arguments):
            _mark(result)
    elif isinstance(result, tuple | list):
        for x in result:
            _placed(x, arguments)
    return result


def _mark(x: Tensor) -> Tensor:
    """Put a tensor on the device, where it is."""
    if Emulated.device == MPS and _run(Tensor.dtype.__get__, (x,), {}) in (torch.float64, torch.complex128):
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
            "Please use float32 instead."
        )
    if _run(Tensor.device.__get__, (x,), {}).type == "cpu":
        if type(x) is nn.Parameter:
            x._is_param = True  # by which nn.Parameter's isinstance recognises classes of others
        x.__class__ = DeviceTensor
    return x


def _unmark(x: Tensor) -> Tensor:
    x.__class__ = nn.Parameter if getattr(x, "_is_param", False) else Tensor
    return x


def _moved(x: Tensor, device: Any, result: Tensor) -> Tensor:
    """The result of a move of x to a device: a copy if the device is another one."""
    target = _is_emulated(device)
    if result is x and target != on_device(x):
        result = _run(Tensor.clone, (x,), {})
    return _mark(result) if target else result


def _to(func: Callable, args: tuple, kwargs: dict) -> Tensor:
    """x.to(device, dtype, ...), x.to(dtype) or x.to(other)."""
    x, *rest = args
    device = kwargs.get("device", Emulated.device if on_device(x) else x.device)
    options = {name: value for name, value in kwargs.items() if name not in ("device", "other")}
    other = kwargs.get("other", rest[0] if rest else None)
    if isinstance(other, Tensor):
        device = other.device
        options["dtype"] = other.dtype
        rest = rest[1:]
    elif rest and not isinstance(rest[0], torch.dtype):
        device = rest[0] or device
        rest = rest[1:]
    if device is None:
        device = x.device
    real = "cpu" if _is_emulated(device) else device
    return _moved(x, device, _run(func, (x, real, *rest), options))


def _cuda(func: Callable, args: tuple, kwargs: dict) -> Tensor:
    return _moved(args[0], CUDA, args[0])


def _cpu(func: Callable, args: tuple, kwargs: dict) -> Tensor:
    return _moved(args[0], "cpu", _run(func, args, kwargs))


def _type_as(func: Callable, args: tuple, kwargs: dict) -> Tensor:
    return args[0].to(args[1])


def _numpy(func: Callable, args: tuple, kwargs: dict) -> Any:
    if on_device(args[0]):
        raise TypeError(
            f"can't convert {Emulated.device} device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )
    return _run(func, args, kwargs)


def _getitem(func: Callable, args: tuple, kwargs: dict) -> Any:
    x, index = args
    if not on_device(x) and any(map(on_device, _tensors(index))):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    result = _run(func, args, kwargs)
    return _mark(result) if on_device(x) else result


def _setitem(func: Callable, args: tuple, kwargs: dict) -> None:
    x, index, value = args
    _getitem(Tensor.__getitem__, (x, index), {})
    indices = list(_tensors(index))
    if indices and isinstance(value, Tensor):  # a plain slice copies, from any device
        _refuse_mixture([x, value], zero_dimensional=on_device(x))
    _run(func, args, kwargs)


def _set_data(func: Callable, args: tuple, kwargs: dict) -> None:
    x, data = args
    _run(func, args, kwargs)
    if on_device(data):
        _mark(x)
    elif on_device(x):
        _unmark(x)


def _deepcopy(func: Callable, args: tuple, kwargs: dict) -> Tensor:
    """What PyTorch's own does for tensors and parameters: a subclass is refused by it, or loses its class."""
    x, memo = args
    if not on_device(x):
        return _run(func, args, kwargs)
    if id(x) not in memo:
        copied = x.detach().clone()
        if getattr(x, "_is_param", False):
            copied._is_param = True
        memo[id(x)] = copied.requires_grad_(x.requires_grad)
    return memo[id(x)]


def _answer(on: Callable[[], Any]) -> Callable:
    """A function that returns what `on` does for tensors on the device, and asks PyTorch for the others."""
    return lambda func, args, kwargs: on() if on_device(args[0]) else _run(func, args, kwargs)


SPECIAL: dict[Callable, Callable] = {
    Tensor.to: _to,
    Tensor.cuda: _cuda,
    Tensor.cpu: _cpu,
    Tensor.type_as: _type_as,
    Tensor.numpy: _numpy,
    Tensor.__array__: _numpy,
    Tensor.__getitem__: _getitem,
    Tensor.__setitem__: _setitem,
    Tensor.data.__set__: _set_data,
    Tensor.__deepcopy__: _deepcopy,
    Tensor.pin_memory: lambda func, args, kwargs: args[0],
    Tensor.device.__get__: _answer(lambda: Emulated.device),
    Tensor.is_cuda.__get__: _answer(lambda: Emulated.device == CUDA),
    Tensor.is_mps.__get__: _answer(lambda: Emulated.device == MPS),
    Tensor.is_cpu.__get__: _answer(lambda: False),
    Tensor.get_device: _answer(lambda: 0),
}

TORCH_CUDA: dict[str, Any] = {  # what torch.cuda says of the device
    "is_available": lambda: True,
    "is_bf16_supported": lambda including_emulation=True: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda device=None: "emulated",
    "manual_seed": lambda seed: None,
    "manual_seed_all": lambda seed: None,
    "get_rng_state": lambda device="cuda": torch.get_rng_state(),
    "set_rng_state": lambda state, device="cuda": None,
    "is_current_stream_capturing": lambda: False,
    "synchronize": lambda device=None: None,
    "empty_cache": lambda: None,
}

TORCH_MPS: dict[str, Any] = {  # the same of torch.mps
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "manual_seed": lambda seed: None,
    "get_rng_state": lambda: torch.get_rng_state(),
    "set_rng_state": lambda state: None,
    "synchronize": lambda: None,
    "empty_cache": lambda: None,
    "driver_allocated_memory": lambda: 0,
}


@contextmanager
def emulated_cuda() -> Iterator[None]:
    """Within it, torch has one CUDA device, an emulated one, in this thread."""
    with _emulated(CUDA, torch.cuda, TORCH_CUDA):
        yield


@contextmanager
def emulated_mps() -> Iterator[None]:
    """Within it, torch has one of Apple's GPUs, an emulated one, in this thread."""
    present = {"is_available": cache(lambda: True), "is_built": lambda: True}  # PyTorch's first is cached as well
    with ExitStack() as stack:
        for name, function in present.items():
            stack.enter_context(mock.patch.object(torch.backends.mps, name, function))
        stack.enter_context(_emulated(MPS, torch.mps, TORCH_MPS))
        yield


@contextmanager
def _emulated(device: torch.device, module: Any, functions: dict[str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Emulated, "device", device))
        for name, function in functions.items():
            stack.enter_context(mock.patch.object(module, name, function))
        stack.enter_context(mock.patch.object(torch.accelerator, "current_accelerator", lambda *_, **__: None))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(_Mode())
        yield
