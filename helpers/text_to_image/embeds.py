"""Embeddings of prompts that the caller passes in place of the prompts: checked, and repeated for the images of each.

Stable Diffusion 1 takes one tensor of states, Stable Diffusion 3 a named tuple of two tensors with equally many rows.
Alphabet: B prompts, N tokens, D width of the states, P width of the pooled embedding.
"""

from typing import Any

import torch
from torch import Tensor


def count_rows(embeds: Tensor | tuple[Tensor, ...]) -> int:
    """How many prompts the embeddings stand for."""
    return len(embeds) if isinstance(embeds, Tensor) else len(embeds[0])


def repeat_rows(embeds: Any, times: int) -> Any:
    """Every row so many times, one after the other; the result has the type of the embeddings."""
    if isinstance(embeds, Tensor):
        return embeds.repeat_interleave(times, dim=0)
    return type(embeds)(*(part.repeat_interleave(times, dim=0) for part in embeds))


def check_tensor(name: str, tensor: Any, shape: str, sizes: tuple[int | None, ...]) -> None:
    """Raise TypeError or ValueError unless it is a finite floating-point tensor of these sizes; None: any.

    Args:
        shape: how the message writes the sizes.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor {shape}, got {type(tensor).__name__}")
    fits = tensor.ndim == len(sizes) and all(
        expected is None or actual == expected for actual, expected in zip(tensor.shape, sizes, strict=True)
    )
    if not fits or not tensor.numel():
        raise ValueError(f"{name} must be {shape} = {sizes} (None: any), got {tuple(tensor.shape)}")
    if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
        raise ValueError(f"{name} must be finite floating-point numbers, got {tensor.dtype} or values that are not")


def check_lengths(states: Tensor, negative_states: Tensor) -> None:
    """Raise ValueError unless states of prompts and of negative prompts, (B, N, D) each, have equally many tokens."""
    lengths = states.shape[1], negative_states.shape[1]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"the prompt has {lengths[0]} states and the negative prompt {lengths[1]}: pass negative_prompt_embeds "
            "with as many as the prompt has"
        )
