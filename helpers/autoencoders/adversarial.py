"""A discriminator of small patches (PatchGAN): it keeps an autoencoder from decoding a blur.

Alphabet: B batch, h w patches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Sequential):
    """Classifies every patch of an image as real or fake: (B, 3, H, W) -> logits (B, 1, h, w).

    Isola et al. 2016, section 3.2.2. With three layers the receptive field of a logit is 70x70 pixels; with two
    34x34, with one 16x16.
    """

    def __init__(self, width: int = 64, layers: int = 3):
        """`width`: channels of the first layer; `layers`: after the first. Raises ValueError for less than one."""
        if layers < 1:
            raise ValueError(f"a discriminator needs a layer or more, got {layers}")
        parts: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        before = width
        for i in range(1, layers + 1):
            after = width * min(2**i, 8)
            stride = 2 if i < layers else 1
            parts += [
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2),
            ]
            before = after
        super().__init__(*parts, nn.Conv2d(before, 1, 4, padding=1))
        for part in self:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1.0, 0.02)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss, a scalar (Lim & Ye 2017, eq. 3): no gain for real above 1 or fake below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(error: Tensor, adversarial: Tensor, last_layer: Tensor, max_weight: float = 1e4) -> Tensor:
    """The weight that gives both losses gradients of equal norm at the last layer (Esser et al. 2020, eq. 7).

    Args:
        error: reconstruction loss, a scalar that depends on `last_layer`.
        adversarial: the generator's adversarial loss, a scalar that depends on `last_layer`.
        last_layer: a weight of the decoder.
        max_weight: upper bound, for where the adversarial gradient vanishes.

    Returns:
        A scalar without gradient.
    """
    error_gradient = torch.autograd.grad(error, last_layer, retain_graph=True)[0].norm()
    adversarial_gradient = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0].norm()
    return (error_gradient / (adversarial_gradient + 1e-4)).clamp(0, max_weight).detach()
