"""A pipeline of several networks on a GPU that holds only one of them at a time."""

from typing import TypeVar

import torch
from torch import nn

Pipeline = TypeVar("Pipeline", bound="OffloadedPipeline")


class OffloadedPipeline(nn.Module):
    """The networks are its child modules. After `enable_cpu_offload`, each is on the GPU only while it works.

    What a pipeline computes with a network, it does after `move_to_gpu`.
    """

    gpu: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self.gpu or next(self.parameters()).device

    def enable_cpu_offload(self: Pipeline, gpu: str | torch.device) -> Pipeline:
        """Keep the networks in main memory, and move each to the GPU only while it works."""
        self.gpu = torch.device(gpu)
        return self.to("cpu")

    def move_to_gpu(self, network: nn.Module) -> None:
        """With CPU offload: make room on the GPU, then move this network there."""
        if self.gpu is None:
            return
        for other in self.children():
            if other is not network:
                other.to("cpu")
        network.to(self.gpu)
