"""Who trains beside whom in `python -m benchmarks method1`: the course's U-Net and two well-kept libraries.

Every contender learns images of a class from the same faces, with the recipe its own documentation gives, in this
course's shape of three levels. With `stem` the peers get the course's way of folding 4x4 pixels into channels, and
predict the image as the course does. With `documented` they get the shape that their documentation shows, narrowed
to about the same parameter count: thinner at 64x64 and deeper, so much faster than three levels.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.record import parameter_count
from helpers.data import Faces
from helpers.tiny_sd.batches import Batches
from helpers.tiny_sd.codecs import PixelCodec
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.train import parser
from helpers.tiny_sd.unet import UNetConfig
from helpers.training import EMA, TrainConfig, train

SIZE = 64
PATCH = 4
EVALUATIONS = 50  # forward passes that an image may cost, guided or not
GUIDANCE = 2.0


class Contender(NamedTuple):
    """A network with its own training step and its own sampler."""

    name: str
    parameters: int
    batch_size: int
    step: Callable[[], None]  # one update
    sample: Callable[[Tensor], Tensor]  # labels int64 (B,) -> (B, 3, 64, 64) in [-1, 1], in EVALUATIONS forward passes


class Folded(nn.Module):
    """A peer's network on 4x4 patches: 48 channels at 16x16 instead of 3 at 64x64."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        prediction = self.network(F.pixel_unshuffle(x, PATCH), *args, **kwargs)
        return F.pixel_shuffle(getattr(prediction, "sample", prediction), PATCH)


def _batches(faces: Faces, batch_size: int, seed: int = 0) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that samples a batch: images (B, 3, H, W) in [-1, 1] and int64 labels (B,)."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(faces), (batch_size,), generator=generator).numpy()
        return faces.tensor(chosen), torch.from_numpy(faces.labels[chosen]).long()

    return draw


def ours(faces: Faces, steps: int) -> Contender:
    """This course's network and loop, conditioned on classes alone as the peers are, at their parameter count.

    The widths grow as fast as the peers' do (about 1, 2, 4): more parameters at 4x4, fewer operations at 16x16.
    """
    torch.manual_seed(0)
    plain = Faces(faces.images, faces.labels, faces.class_names, split="train")
    model = TinySD(UNetConfig(widths=(32, 64, 144), head_width=16), "flow", faces.class_names, SIZE, PixelCodec())
    defaults = parser().parse_args([])  # the training command's own defaults
    config = TrainConfig(steps=steps, learning_rate=defaults.learning_rate)
    batches = Batches(plain, defaults.batch_size)
    ema = EMA(model, config.ema_decay)
    loop = train(model, batches.losses, config, ema=ema)

    averaged = ema.module
    assert isinstance(averaged, TinySD)

    def step() -> None:
        next(loop)

    def sample(labels: Tensor) -> Tensor:
        return averaged.generate(labels.tolist(), steps=EVALUATIONS // 2, guidance_scale=GUIDANCE)

    return Contender("this course", parameter_count(model.unet), defaults.batch_size, step, sample)


def denoising_diffusion_pytorch(
    faces: Faces, batch_size: int, *, stem: bool = False, documented: bool = False, seed: int = 0
) -> Contender:
    """lucidrains/denoising-diffusion-pytorch with its class-conditional U-Net; Adam 8e-5 and EMA as in its README."""
    from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet

    torch.manual_seed(seed)
    width, multiples = (16, (1, 2, 4, 8)) if documented else (32, (1, 2, 4))  # about the course's parameter count

    class FoldedUnet(Unet):
        def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
            return F.pixel_shuffle(super().forward(F.pixel_unshuffle(x, PATCH), *args, **kwargs), PATCH)

    unet_class, channels = (FoldedUnet, 3 * PATCH**2) if stem else (Unet, 3)
    network = unet_class(width, num_classes=3, dim_mults=multiples, channels=channels, cond_drop_prob=0.1)
    network.channels = network.out_dim = 3  # what GaussianDiffusion hands it and expects back
    diffusion = GaussianDiffusion(
        network,
        image_size=SIZE,
        timesteps=1000,
        sampling_timesteps=EVALUATIONS // 2,
        objective="pred_x0" if stem else "pred_noise",
        ddim_sampling_eta=0.0,
    )
    optimizer = torch.optim.Adam(diffusion.parameters(), 8e-5, betas=(0.9, 0.99))
    ema = EMA(diffusion, 0.995)
    next_batch = _batches(faces, batch_size, seed)
    averaged = ema.module
    assert isinstance(averaged, GaussianDiffusion)
    updates = iter(range(1, 10**9))

    def step() -> None:
        images, labels = next_batch()
        diffusion.train()
        diffusion((images + 1) / 2, classes=labels).backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(diffusion, next(updates))

    def sample(labels: Tensor) -> Tensor:
        return averaged.sample(labels, cond_scale=GUIDANCE) * 2 - 1

    return Contender("denoising-diffusion-pytorch", parameter_count(network), batch_size, step, torch.no_grad()(sample))


THREE_LEVELS = {
    "layers_per_block": 1,
    "block_out_channels": (48, 80, 120),
    "norm_num_groups": 8,
    "attention_head_dim": 40,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
TRAINING_EXAMPLE = {  # widths of 128, 128, 256, 256, 512, 512 there
    "layers_per_block": 2,
    "block_out_channels": (20, 20, 40, 40, 80, 80),
    "norm_num_groups": 4,
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
}


def diffusers_unet(
    faces: Faces, batch_size: int, *, stem: bool = False, documented: bool = False, seed: int = 0
) -> Contender:
    """diffusers' UNet2DModel with its DDPM training example's recipe: AdamW 1e-4, linear betas, noise prediction."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    torch.manual_seed(seed)
    channels = 3 * PATCH**2 if stem else 3
    network = UNet2DModel(
        sample_size=SIZE // PATCH if stem else SIZE,
        in_channels=channels,
        out_channels=channels,
        num_class_embeds=3,
        **(TRAINING_EXAMPLE if documented else THREE_LEVELS),
    )
    parameters = parameter_count(network)
    prediction_type = "sample" if stem else "epsilon"
    model = Folded(network) if stem else network
    noising = DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction_type)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=1e-6)
    ema = EMA(model, 0.999)
    next_batch = _batches(faces, batch_size, seed)
    updates = iter(range(1, 10**9))
    noises = torch.Generator().manual_seed(seed)  # goes on from call to call: equal labels get other noise

    def predict(module: nn.Module, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        prediction = module(x, t, class_labels=labels)
        return getattr(prediction, "sample", prediction)

    def step() -> None:
        images, labels = next_batch()
        t = torch.randint(1000, (batch_size,))
        noise = torch.randn_like(images)
        prediction = predict(model.train(), noising.add_noise(images, noise, t), t, labels)
        F.mse_loss(prediction, images if stem else noise).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model, next(updates))

    def sample(labels: Tensor) -> Tensor:
        scheduler = DDIMScheduler(num_train_timesteps=1000, prediction_type=prediction_type)
        scheduler.set_timesteps(EVALUATIONS)
        x = torch.randn(len(labels), 3, SIZE, SIZE, generator=noises)
        for t in scheduler.timesteps:
            x = scheduler.step(predict(ema.module, x, t.expand(len(labels)), labels), t, x).prev_sample
        return x.clamp(-1, 1)

    return Contender("diffusers UNet2DModel", parameters, batch_size, step, torch.no_grad()(sample))
