"""How long the trainings of the `gpu` profile take: estimates from counted operations, until somebody measures them.

python -m benchmarks.gpu_estimates    # prints the estimates and writes the record that the page on time shows

The networks are built on the "meta" device, where nothing is computed. An update takes what is longer: its
floating-point operations at SHARE of the card's arithmetic, or the launch of its kernels, one after the other.
"""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import write_record
from helpers.autoencoders import train_vq
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.train import tiny_config
from helpers.autoencoders.vq import VQAutoencoder
from helpers.course import repository_root
from helpers.tiny_sd.unet import TinyUNet, UNetConfig

CARD = "RTX 4080"
PEAK = 48.7e12  # floating-point operations a second in fp32, as the maker states; bf16 has twice as many
SHARE = 0.3  # of it that a training of small convolutions reaches: assumed
LAUNCH = 15e-6  # seconds until PyTorch has sent an operation to the card: assumed
SIDE = 64  # pixels
AFHQ = 14_630  # photographs for training
RECORD = repository_root() / "00_assets" / "results" / "gpu_estimates.json"
Network = tuple[nn.Module, Callable[[int], Tensor]]  # a module, and its output for a batch of a given size


class Counts(NamedTuple):
    """What one update takes."""

    flops: int
    kernels: int

    @property
    def seconds(self) -> float:
        return max(self.flops / (SHARE * PEAK), self.kernels * LAUNCH)


class _Kernels(TorchDispatchMode):
    """Counts operations; a view of a tensor launches nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def count(network: Network, batch_size: int, training: bool = True) -> Counts:
    """Count one update: forward, backward, and for each parameter its share of the optimiser and of the average.

    Args:
        network: on the meta device.
        batch_size: images in an update.
        training: False: the forward pass alone.
    """
    module, forward = network
    with torch.set_grad_enabled(training), FlopCounterMode(display=False) as flops, _Kernels() as kernels:
        output = forward(batch_size)
        if training:
            output.square().mean().backward()
    parameters = len(list(module.parameters())) if training else 0
    return Counts(flops.get_total_flops(), kernels.count + parameters)


# --- the networks of the notebooks ------------------------------------------------------------------------------------


def autoencoder(config: KLConfig) -> Network:
    """Encoder and decoder of a KL autoencoder."""
    module = KLAutoencoder(config)
    return module, lambda batch_size: module.decode(module.encode(_images(batch_size)).mean)


def encoder(config: KLConfig) -> Network:
    """The encoder of a KL autoencoder."""
    module = KLAutoencoder(config)
    return module.encoder, lambda batch_size: module.encode(_images(batch_size)).mean


def vq_autoencoder() -> Network:
    """Encoder and decoder of notebook 08's quantised autoencoder; the choice of codes costs next to nothing."""
    module = VQAutoencoder(train_vq.tiny_config())
    return module, lambda batch_size: module.decode_codes(module.encode(_images(batch_size)))


def vq_decoder() -> Network:
    """Its decoder alone."""
    module = VQAutoencoder(train_vq.tiny_config())
    return module.decoder, lambda batch_size: module.decode_codes(torch.empty(batch_size, 4, SIDE // 4, SIDE // 4))


def unet(side: int, **sizes: Any) -> Network:
    """A U-Net of tiny Stable Diffusion."""
    module = TinyUNet(UNetConfig(**sizes))
    channels = module.config.channels
    return module, lambda batch_size: module(torch.empty(batch_size, channels, side, side), torch.empty(batch_size))


def _images(batch_size: int) -> Tensor:
    return torch.empty(batch_size, 3, SIDE, SIDE)


# --- the trainings ----------------------------------------------------------------------------------------------------


class Training(NamedTuple):
    """A training of the `gpu` profile; steps and batch size are read from its notebook."""

    notebook: str
    what: str
    network: Callable[[], Network]
    steps: str = "steps"  # the notebook's name for the number of updates
    repeats: float = 1.0  # trainings of that length


TRAININGS = (
    Training("07", "an autoencoder", lambda: autoencoder(tiny_config())),
    Training("08", "a VQ-VAE", vq_autoencoder),
    Training("08", "three decoders", vq_decoder, "finetune_steps", 3),
    Training(
        "09",
        "two U-Nets in pixels",
        lambda: unet(SIDE, widths=(48, 96), attention=(False, True), detail_channels=0),
        repeats=1.2,  # the second stops after a fifth
    ),
    Training(
        "11",
        "a U-Net in latents",
        lambda: unet(SIDE // 8, channels=4, patch=1, widths=(64, 96), attention=(True, True), detail_channels=0),
    ),
    Training("12", "an autoencoder", lambda: autoencoder(tiny_config(4, patch=4))),
)


def gpu_value(notebook: str, name: str) -> int:
    """The number that a notebook gives a name in the `gpu` profile. Raises ValueError unless it does so once."""
    (path,) = (repository_root() / "notebooks").glob(f"{notebook}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (value,) = re.findall(rf"^\s*{name} = course\.pick\(cpu=[\w.]+, gpu=([\d_]+)\)", code, re.MULTILINE)
    return int(value)


def estimate(training: Training) -> dict[str, Any]:
    """One row of the record."""
    batch_size = gpu_value(training.notebook, "batch_size")
    updates = int(training.repeats * gpu_value(training.notebook, training.steps))
    with torch.device("meta"):
        counts = count(training.network(), batch_size)
    return _row(training.notebook, training.what, updates, batch_size, counts)


def encoding() -> dict[str, Any]:
    """The row of notebook 11's cache: sdxl-vae encodes every photograph and its mirror image."""
    batch_size = 100
    with torch.device("meta"):
        counts = count(encoder(KLConfig.sd1()), batch_size, training=False)  # sdxl-vae has these sizes
    return _row("11", "latents of AFHQ", 2 * AFHQ // batch_size, batch_size, counts)


def _row(notebook: str, what: str, updates: int, batch_size: int, counts: Counts) -> dict[str, Any]:
    return {
        "notebook": notebook,
        "what": what,
        "updates": updates,
        "batch_size": batch_size,
        "gflop": round(counts.flops / 1e9, 1),
        "kernels": counts.kernels,
        "minutes": round(updates * counts.seconds / 60, 2),
    }


def record() -> dict[str, Any]:
    """All estimates, and what they assume."""
    rows = sorted([*map(estimate, TRAININGS), encoding()], key=lambda row: row["notebook"])
    return {"card": CARD, "peak": PEAK, "share": SHARE, "launch": LAUNCH, "rows": rows}


def run() -> None:
    """Print the estimates and write the record."""
    known = record()
    for row in known["rows"]:
        print(f"estimate for notebook {row['notebook']}, {row['what']}: {row['minutes']:.1f} minutes on an {CARD}")
    write_record(RECORD, known)


if __name__ == "__main__":
    run()
