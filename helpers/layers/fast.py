"""Optimised versions of formulas that the other files of this folder show plainly; tests compare every pair.

Each function says where it is faster, and a `prefer_*` test beside it decides. None is used while gradients are
recorded, unless it says so. Alphabet: B batch, C channels, H W height and width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

MATMUL_POSITIONS = 512  # at most so many positions in the batch, and
MATMUL_CHANNELS = 256  # at least so many channels: fewer do not pay for the copies
FOLDED_POSITIONS = 1024  # at least so many positions: below, adding up weights costs more than it saves


# --- writing over a layer's output ----------------------------------------------------------------------------------


def has_hooks(*modules: nn.Module) -> bool:
    """Whether a forward hook, of these modules or a global one, may have kept what passes between them."""
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return True
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def may_overwrite(*modules: nn.Module) -> bool:
    """Whether what passes between these modules can be overwritten: no gradient needs it, no hook may have kept it."""
    return not torch.is_grad_enabled() and not has_hooks(*modules)


def add_to_output(layer: nn.Module, h: Tensor, other: Tensor) -> Tensor:
    """h + other, writing over h, the output of a convolution `layer`, unless a hook may have kept it.

    Used with gradients too: neither the convolution's gradient nor the sum's needs h.
    """
    return h + other if has_hooks(layer) else h.add_(other)


def silu_after(layer: nn.Module, x: Tensor) -> Tensor:
    """silu(layer(x)); writes over the layer's output where nothing else can hold it.

    That saves a copy of the largest feature maps of a decoder.
    """
    return F.silu(layer(x), inplace=may_overwrite(layer))


def gelu_tanh_(x: Tensor) -> Tensor:
    """GELU by the tanh approximation (Hendrycks & Gimpel 2016, section 2), overwriting x; see `may_overwrite`."""
    return torch.ops.aten.gelu_(x, approximate="tanh")


# --- convolutions ---------------------------------------------------------------------------------------------------


def prefer_matmul(x: Tensor) -> bool:
    """Whether `conv3x3_by_matmul` beats the convolution kernel: a CPU, few positions, very many weights."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    B, C, H, W = x.shape
    return B * H * W <= MATMUL_POSITIONS and C >= MATMUL_CHANNELS


def conv3x3_by_matmul(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution with padding 1 as one matrix product, (B, C, H, W) -> (B, C', H, W).

    Deep in a U-Net a CPU's convolution kernel spends more time rearranging the weights than multiplying by them.
    Here the nine neighbours of every position are copied side by side instead: twice as fast at 8x8 positions of 1280
    channels.
    """
    B, C, H, W = x.shape
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # (B, H + 2, W + 2, C)
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # (B, H, W, C, 3, 3), a view
    rows = windows.permute(0, 1, 2, 4, 5, 3).reshape(B * H * W, 9 * C)
    matrix = weight.permute(0, 2, 3, 1).reshape(-1, 9 * C)  # (C', 9 C)
    return F.linear(rows, matrix, bias).view(B, H, W, -1).permute(0, 3, 1, 2)


def prefer_folded(x: Tensor) -> bool:
    """Whether `upsample_conv3x3` beats enlarging first: no gradient, and a feature map that is large enough."""
    return not torch.is_grad_enabled() and x.shape[2] * x.shape[3] >= FOLDED_POSITIONS


def upsample_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Nearest-neighbour upsampling by 2 and a 3x3 convolution in one, (B, C, H, W) -> (B, C', 2H, 2W).

    16 multiplications where enlarging first takes 36. Of the nine pixels under the kernel only four differ, since
    neighbours are copies: weights of equal pixels are added beforehand. Which ones depends on whether the output's row
    and column are even or odd.
    """
    B, C, H, W = x.shape
    out = x.new_empty((B, len(weight), 2 * H, 2 * W)).contiguous(memory_format=_memory_format(x))
    # even rows see (the row before | this one twice), odd ones (this one twice | the row after); columns alike
    pairs = x.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # (parity, 2, 3)
    mixing = torch.einsum("rai,cbj->rcabij", pairs, pairs).reshape(16, 9)
    kernels = mixing @ weight.permute(0, 2, 3, 1).reshape(-1, 9, C)  # (C', 16, C)
    kernels = kernels.reshape(-1, 2, 2, 2, 2, C).permute(1, 2, 0, 5, 3, 4)  # (row, column, C', C, 2, 2)
    for row in (0, 1):
        for column in (0, 1):
            padded = F.pad(x, (1 - column, column, 1 - row, row))
            out[:, :, row::2, column::2] = F.conv2d(padded, kernels[row, column], bias)
    return out


def _memory_format(x: Tensor) -> torch.memory_format:
    if x.is_contiguous():
        return torch.contiguous_format
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


# --- attention ------------------------------------------------------------------------------------------------------


def prefer_plain_attention(q: Tensor) -> bool:
    """Whether the plain formula beats PyTorch's fused kernel: training in bfloat16 on a CPU, where it takes half."""
    return q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled()


def qkv_in_three_products(x: Tensor, to_qkv: nn.Linear, *, queries: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """`to_qkv(x)` in three equal parts, by three matrix products: on a CPU faster than one (75 and 86 ms in SD3).

    Used with gradients too.

    Args:
        x: (B, N, D).
        to_qkv: D -> 3 D.
        queries: False leaves them out (N = 0), where nothing reads the attention's output.
    """
    weights = to_qkv.weight.chunk(3)
    biases = to_qkv.bias.chunk(3)
    q = F.linear(x if queries else x[:, :0], weights[0], biases[0])
    k = F.linear(x, weights[1], biases[1])
    v = F.linear(x, weights[2], biases[2])
    return q, k, v
