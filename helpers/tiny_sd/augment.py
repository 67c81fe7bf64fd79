"""Augmentation that does not leak into the samples (EDM: Karras et al. 2022, appendix F.2).

Small datasets are memorised in a long training. Shifted, scaled and recoloured copies delay that, but a network would
learn to generate such copies. So the parameters of the augmentation are an input of the network, like the class: with
parameters of zero, which stand for an unchanged image, it generates unchanged images.

Alphabet: B batch, H W height and width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# of every augmentation parameter; faces are upright and centred, so these are small
STANDARD_DEVIATIONS = {
    "scale": 0.2,  # log2 of the isotropic factor, as in EDM
    "rotation": math.radians(10),  # EDM turns by any angle
    "shift right": 0.125,  # of the image's side, as in EDM
    "shift down": 0.125,
    "contrast": 0.3,  # log2 of the factor around mid-grey
    "brightness": 0.15,  # in images in [-1, 1]
}
PARAMETERS = len(STANDARD_DEVIATIONS)
GROUPS = torch.tensor([0, 1, 2, 2, 3, 4])  # of the parameters: both shifts are used together
GEOMETRIC = 4  # the number of geometric parameters; they come first


def sample_augmentation(batch: int, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Sample (B, PARAMETERS): standard normal with this probability, else zero; shifts are on or off together."""
    parameters = torch.randn(batch, PARAMETERS, generator=generator)
    chosen = torch.rand(batch, int(GROUPS.max()) + 1, generator=generator) < probability
    return parameters * chosen[:, GROUPS]


def apply_augmentation(images: Tensor, parameters: Tensor) -> Tensor:
    """Scale, rotate and shift images and change their colours; a parameter of zero changes nothing.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        parameters: (B, PARAMETERS) in units of STANDARD_DEVIATIONS.
    """
    amounts = parameters.to(images) * images.new_tensor(list(STANDARD_DEVIATIONS.values()))
    moved = (amounts[:, :GEOMETRIC] != 0).any(1)
    if moved.any():
        images = images.clone()
        images[moved] = _transform(images[moved], amounts[moved, :GEOMETRIC])
    contrast, brightness = amounts[:, GEOMETRIC:, None, None, None].unbind(1)
    return (images * contrast.exp2() + brightness).clamp(-1, 1)


def _transform(images: Tensor, amounts: Tensor) -> Tensor:
    """Scale, then rotate clockwise, then shift; what comes in from outside is the image's reflection."""
    scale, angle, right, down = amounts.unbind(1)
    cos = angle.cos() / scale.exp2()
    sin = angle.sin() / scale.exp2()
    shift = torch.stack([2 * right, 2 * down], dim=1)[:, :, None]  # a side is 2 in PyTorch's coordinates
    aspect = images.shape[3] / images.shape[2]  # both sides are 2 in these coordinates, so a circle is an ellipse
    inverse = torch.stack([cos, sin / aspect, -sin * aspect, cos], dim=1).unflatten(1, (2, 2))  # output to input
    grid = F.affine_grid(torch.cat([inverse, -inverse @ shift], dim=2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
