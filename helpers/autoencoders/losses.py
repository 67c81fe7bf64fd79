"""The loss of an autoencoder of latent diffusion: pixel error, perceptual distance and adversarial loss.

The sum of Rombach et al. 2022, appendix G (there with weights 1, 1 and 0.5 for the KL autoencoder, and the adversarial
loss from step 50,001 on). Alphabet: B images, H W height and width in pixels.
"""

import argparse

import torch
from torch import Tensor, nn

from helpers.autoencoders.adversarial import PatchDiscriminator, adaptive_weight, hinge
from helpers.autoencoders.load import load_autoencoder
from helpers.autoencoders.perceptual import PerceptualDistance, encoder_distance, load_perceptual
from helpers.training.arguments import naming_option, non_negative_float, non_negative_int

PIXEL_LOSSES = ("l1", "mse")


class ReconstructionLoss(nn.Module):
    """Reconstruction + perceptual + adversarial loss (Esser et al. 2020, eq. 7).

    The discriminator's own loss is added to the sum, but no gradient flows between it and the autoencoder's. Name the
    discriminator as the training's `adversary` (see `helpers.training.train`): the two are then trained as by two
    optimisers.
    """

    steps: Tensor  # training steps so far: a checkpoint must record whether the discriminator has started

    def __init__(
        self,
        pixel_loss: str = "l1",
        perceptual: float = 0.0,
        adversarial: float = 0.0,
        discriminator_start: int = 0,
        distance: PerceptualDistance | None = None,
    ):
        """
        Args:
            pixel_loss: "l1" or "mse", mean over all values of an image.
            perceptual: weight of the perceptual distance; 0: without it.
            adversarial: weight of the adversarial loss, relative to the other terms' gradient at the last layer; 0:
                without a discriminator.
            discriminator_start: steps before the adversarial loss is added: first the reconstructions must be good
                enough for a discriminator to help.
            distance: the perceptual distance; None: that of `load_perceptual`.

        Raises:
            ValueError: for an unknown pixel loss or a negative number.
        """
        super().__init__()
        if pixel_loss not in PIXEL_LOSSES:
            raise ValueError(f"pixel_loss must be 'l1' or 'mse', got {pixel_loss!r}")
        if min(perceptual, adversarial, discriminator_start) < 0:
            raise ValueError(
                "perceptual, adversarial and discriminator_start must not be negative, "
                f"got {perceptual}, {adversarial}, {discriminator_start}"
            )
        self.pixel_loss = pixel_loss
        self.perceptual_weight = perceptual
        self.adversarial_weight = adversarial
        self.discriminator_start = discriminator_start
        # in a list, so that it is no submodule: it is neither trained nor saved with the model
        self._perceptual: list[PerceptualDistance] = [distance or load_perceptual()] if perceptual else []
        self.discriminator = PatchDiscriminator(width=32, layers=2) if adversarial else None
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, images: Tensor, reconstruction: Tensor, last_layer: Tensor) -> Tensor:
        """The loss of each image: two tensors (B, 3, H, W) in [-1, 1], and the decoder's last weight -> (B,).

        It is computed in float32: a squared error of 0.001 beside values of 1 needs more digits than bfloat16 has.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._loss(images.float(), reconstruction.float(), last_layer)

    def _loss(self, images: Tensor, reconstruction: Tensor, last_layer: Tensor) -> Tensor:
        difference = reconstruction - images
        errors = difference.abs() if self.pixel_loss == "l1" else difference.square()
        loss = errors.flatten(1).mean(1)  # (B,)
        for distance in self._perceptual:
            loss = loss + self.perceptual_weight * distance.to(images.device)(images, reconstruction)
        if self.discriminator is not None and self.training:
            self.steps += 1
            if self.steps > self.discriminator_start:
                loss = loss + self._adversarial_loss(self.discriminator, images, reconstruction, loss, last_layer)
            elif torch.distributed.is_available() and torch.distributed.is_initialized():
                # every parameter needs a gradient in every step: processes wait for each other's
                loss = loss + 0.0 * torch.stack([p.sum() for p in self.discriminator.parameters()]).sum()
        return loss

    @property
    def perceptual_name(self) -> str:
        """Name of the perceptual network, or "pixels" without one."""
        return self._perceptual[0].name if self._perceptual else "pixels"

    def _adversarial_loss(
        self,
        discriminator: PatchDiscriminator,
        images: Tensor,
        reconstruction: Tensor,
        loss: Tensor,
        last_layer: Tensor,
    ) -> Tensor:
        """The generator's weighted loss plus the discriminator's, a scalar; each has gradients for one side only."""
        frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        generator_loss = -torch.func.functional_call(discriminator, frozen, (reconstruction,)).mean()
        discriminator_loss = hinge(discriminator(images), discriminator(reconstruction.detach()))
        balance = adaptive_weight(loss.mean(), generator_loss, last_layer)
        return self.adversarial_weight * balance * generator_loss + discriminator_loss


def add_loss_arguments(parser: argparse.ArgumentParser, pixel_loss: str) -> None:
    """Add the options that every training of an autoencoder has; `pixel_loss` is the default of --error."""
    add = parser.add_argument
    add("--error", choices=PIXEL_LOSSES, default=pixel_loss, help="pixel loss")
    add(
        "--perceptual",
        type=non_negative_float,
        default=0.0,
        metavar="WEIGHT",
        help="weight of the perceptual distance: --perceptual-encoder; else LPIPS where torch's cache has VGG16; else "
        "the course's substitute, which knows synthetic faces only",
    )
    add(
        "--perceptual-encoder",
        metavar="AUTOENCODER",
        help="compare features of this autoencoder's encoder: a name, file, folder or hub repository",
    )
    add(
        "--adversarial",
        type=non_negative_float,
        default=0.0,
        metavar="WEIGHT",
        help="weight of the patch discriminator's loss",
    )
    add(
        "--discriminator-start",
        type=non_negative_int,
        default=0,
        metavar="STEP",
        help="start the discriminator after this many steps",
    )


def reconstruction_loss(options: argparse.Namespace) -> ReconstructionLoss:
    """The loss that the options of `add_loss_arguments` describe.

    Raises:
        SystemExit: for an encoder without a weight, which would do nothing, and for one that cannot be loaded.
    """
    encoder = options.perceptual_encoder
    if encoder and not options.perceptual:
        raise SystemExit("--perceptual-encoder needs --perceptual, the weight of the distance")
    with naming_option("--perceptual-encoder"):
        distance = encoder_distance(load_autoencoder(encoder)) if encoder else None
    return ReconstructionLoss(
        options.error, options.perceptual, options.adversarial, options.discriminator_start, distance
    )
