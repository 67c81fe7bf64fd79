"""A perceptual loss for a diffusion model in pixels: the predicted clean image must look right to an encoder.

Squared error on pixels is minimised by the mean of all images that fit, which is blurred. The encoder of a pretrained
autoencoder responds to edges and texture, so comparing its feature maps of prediction and truth rewards sharpness.

Alphabet: B batch, C channels, H W height and width of the image, h w of a feature map.
"""

import torch
from torch import Tensor, nn

from helpers.autoencoders.kl import Encoder
from helpers.autoencoders.perceptual import PerceptualDistance


class EncoderFeatures(nn.Module):
    """The feature maps of an autoencoder's encoder, one after each resolution."""

    def __init__(self, autoencoder: nn.Module):
        """
        Args:
            autoencoder: of `helpers.autoencoders`: TAESD's architecture, or latent diffusion's with a KL term or a
                codebook.
        """
        super().__init__()
        encoder = autoencoder.encoder
        self.range_01 = not isinstance(encoder, Encoder)  # TAESD's takes images in [0, 1]
        self.stages = nn.ModuleList(_kl_stages(encoder) if isinstance(encoder, Encoder) else _tiny_stages(encoder))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> float32 (B, C, h, w) of each resolution, the finest first."""
        x = (images + 1) / 2 if self.range_01 else images
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x.float())
        return features


def _kl_stages(encoder: Encoder) -> list[nn.Module]:
    """The levels of latent diffusion's encoder; what changes the resolution belongs to the next stage."""
    stages = []
    before = [encoder.fold, encoder.stem]
    for level in encoder.down:
        stages.append(nn.Sequential(*before, *level.residual))
        before = [] if level.resample is None else [level.resample]
    return stages


def _tiny_stages(encoder: nn.Sequential) -> list[nn.Module]:
    """TAESD's encoder, cut before each strided convolution; the last layer, which makes the latent, is left out."""
    stages: list[list[nn.Module]] = [[]]
    for layer in list(encoder)[:-1]:
        if isinstance(layer, nn.Conv2d) and layer.stride != (1, 1):
            stages.append([])
        stages[-1].append(layer)
    return [nn.Sequential(*stage) for stage in stages]


class PerceptualLoss:
    """The term that is added to the loss of each example; no part of the network, so it is not saved with it."""

    def __init__(self, autoencoder: nn.Module, weight: float, until: float = 1.0, crop: int | None = None):
        """
        Args:
            autoencoder: whose encoder compares the images; it is frozen.
            weight: of the term in the loss.
            until: the largest time at which it counts. At higher noise levels the prediction has to be a blurred mean,
                and leaving them out saves the encoder's computation.
            crop: compare squares of so many pixels a side, at a random position in each step: an encoder that works at
                full resolution costs several times what a small U-Net does. None: whole images.
        """
        self.distance = PerceptualDistance(EncoderFeatures(autoencoder), None, "an autoencoder's encoder")
        self.weight = weight
        self.until = until
        self.crop = crop

    def __deepcopy__(self, memo: dict) -> "PerceptualLoss":
        return self  # an average of the network shares it

    def to(self, device: torch.device | str) -> "PerceptualLoss":
        """Move the encoder; returns itself."""
        self.distance.to(device)
        return self

    def __call__(self, predicted: Tensor, images: Tensor, t: Tensor) -> Tensor:
        """(B,) the weighted distances, 0 where t > until.

        Args:
            predicted, images: (B, 3, H, W) the predicted clean images and the true ones, in [-1, 1].
            t: (B,) times.
        """
        values = predicted.new_zeros(len(t))
        counted = t <= self.until
        if not counted.any():
            return values
        window = self._window(images)
        distances = self.distance(predicted[counted][window], images[counted][window])
        return values.masked_scatter(counted, self.weight * distances)

    def _window(self, images: Tensor) -> tuple[slice, ...]:
        """The square that is compared, from PyTorch's own generator, which the training seeds in every step."""
        size = min(self.crop or images.shape[-1], *images.shape[2:])
        starts = (int(torch.randint(side - size + 1, ())) for side in images.shape[2:])
        return (slice(None), slice(None), *(slice(start, start + size) for start in starts))
