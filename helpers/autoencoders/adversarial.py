"""A critic of small patches: it keeps an autoencoder from answering with a blur.

Alphabet: B batch, h w patches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Sequential):
    """Every patch of a picture is judged for itself: (B, 3, H, W) -> (B, 1, h, w) (Isola et al. 2016, section 3.2.2).

    With three layers a judgement sees 70x70 pixels; with two 34x34, with one 16x16.
    """

    def __init__(self, width: int = 64, layers: int = 3):
        """Raises ValueError without a layer."""
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
    """The critic's loss: real above 1, fake below -1, and beyond that nothing to gain (Lim & Ye 2017, eq. 3)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(error: Tensor, adversarial: Tensor, last_layer: Tensor, most: float = 1e4) -> Tensor:
    """What makes the critic's pull on the last layer as strong as the error's (Esser et al. 2020, eq. 7).

    Args:
        error, adversarial: scalars that depend on `last_layer`, a weight of the decoder.
        most: where the critic has nothing to say the ratio would be without bound.
    """
    ours, theirs = (torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (error, adversarial))
    return (ours / (theirs + 1e-4)).clamp(0, most).detach()
