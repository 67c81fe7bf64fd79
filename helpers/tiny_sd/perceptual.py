"""A perceptual loss for a diffusion model in pixels: the predicted clean image must look right to an encoder.

Squared error on pixels is minimised by the mean of all images that fit, which is blurred. The encoder of a pretrained
autoencoder responds to edges and texture, so comparing its feature maps of prediction and truth rewards sharpness.

Alphabet: B batch, C channels, H W height and width of the image, h w of a feature map.
"""

import torch
from torch import Tensor, nn

from helpers.autoencoders.perceptual import encoder_distance


class PerceptualLoss:
    """A perceptual distance added to the loss of each example; no part of the network, so it is not saved with it."""

    def __init__(self, autoencoder: nn.Module, weight: float, until: float = 1.0, crop: int | None = None):
        """
        Args:
            autoencoder: its encoder compares the images; it is frozen.
            weight: of the term in the loss.
            until: the largest time at which it counts. At higher noise levels the prediction has to be a blurred mean,
                and leaving them out saves the encoder's computation.
            crop: compare squares of this many pixels per side, at a random position in each step: an encoder that
                works at full resolution costs several times as much as a small U-Net. None: whole images.
        """
        self.distance = encoder_distance(autoencoder)
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
        """Compute the weighted distances (B,), 0 where t > until.

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
        """Sample the square that is compared, by PyTorch's global generator, which the training seeds in every step."""
        height, width = images.shape[2:]
        size = min(self.crop or width, height, width)
        top = int(torch.randint(height - size + 1, ()))
        left = int(torch.randint(width - size + 1, ()))
        return (slice(None), slice(None), slice(top, top + size), slice(left, left + size))
