"""What an autoencoder of latent diffusion is trained with: pixels, what a network sees in them, what a critic says.

The sum of Rombach et al. 2022, appendix G (there 1 + 1 + 0.5 for the KL autoencoder, the critic from step 50,001 on).
Alphabet: B pictures, H W pixels.
"""

import argparse

import torch
from torch import Tensor, nn

from helpers.autoencoders.adversarial import PatchDiscriminator, adaptive_weight, hinge
from helpers.autoencoders.perceptual import load_perceptual


class ReconstructionLoss(nn.Module):
    """Pictures in, losses out; the critic's own loss stands beside the autoencoder's, and neither feels the other's.

    (They share an optimiser, and so the limit on the gradient's length.)
    """

    def __init__(self, error: str = "l1", perceptual: float = 0.0, adversarial: float = 0.0, start: int = 0):
        """
        Args:
            error: of the pixels, "l1" or "mse".
            perceptual: weight of the perceptual distance; 0: without.
            adversarial: weight of the critic, where 1 pulls the last layer as strongly as the other errors; 0: without.
            start: steps before the critic joins: first the pictures must be worth a critic.

        Raises:
            ValueError: for an unknown error or a negative number.
        """
        super().__init__()
        if error not in ("l1", "mse"):
            raise ValueError(f"the pixels' error is 'l1' or 'mse', got {error!r}")
        if min(perceptual, adversarial, start) < 0:
            raise ValueError(f"weights and start are not negative, got {perceptual}, {adversarial}, {start}")
        self.error = error
        self.weights = (perceptual, adversarial)
        self.start = start
        self.perceptual = (load_perceptual(),) if perceptual else ()  # in a tuple: neither trained nor saved
        self.discriminator = PatchDiscriminator(width=32, layers=2) if adversarial else None
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # a checkpoint must know whether it has begun

    def forward(self, pictures: Tensor, again: Tensor, last_layer: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] twice, and the decoder's last weight -> (B,).

        Half precision ends here: a squared error of 0.001 beside numbers of 1 needs more digits.
        """
        with torch.autocast(pictures.device.type, enabled=False):
            return self._loss(pictures.float(), again.float(), last_layer)

    def _loss(self, pictures: Tensor, again: Tensor, last_layer: Tensor) -> Tensor:
        difference = again - pictures
        loss = (difference.abs() if self.error == "l1" else difference.square()).flatten(1).mean(1)
        for distance in self.perceptual:
            loss = loss + self.weights[0] * distance.to(pictures.device)(pictures, again)
        if self.discriminator is not None and self.training:
            self.steps += 1
            if self.steps > self.start:
                loss = loss + self._discriminator_loss(pictures, again, loss.mean(), last_layer)
            elif torch.distributed.is_available() and torch.distributed.is_initialized():
                loss = loss + 0.0 * sum(
                    p.sum() for p in self.discriminator.parameters()
                )  # processes wait for each gradient
        return loss

    @property
    def sees(self) -> str:
        """What the perceptual distance looks with, or "pixels" where there is none."""
        return self.perceptual[0].name if self.perceptual else "pixels"

    def _discriminator_loss(self, pictures: Tensor, again: Tensor, error: Tensor, last_layer: Tensor) -> Tensor:
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        fooled = -torch.func.functional_call(self.discriminator, frozen, (again,)).mean()
        judged = hinge(self.discriminator(pictures), self.discriminator(again.detach()))
        return self.weights[1] * adaptive_weight(error, fooled, last_layer) * fooled + judged


def add_loss_arguments(parser: argparse.ArgumentParser, error: str) -> None:
    """The options that every training of an autoencoder has."""
    add = parser.add_argument
    add("--error", choices=["l1", "mse"], default=error, help="of the pixels")
    add(
        "--perceptual",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="of the perceptual distance: LPIPS where torch's cache has VGG16, else the course's stand-in",
    )
    add("--adversarial", type=float, default=0.0, metavar="WEIGHT", help="of a critic of patches")
    add("--critic-from", type=int, default=0, metavar="STEP", help="the critic joins after so many steps")


def reconstruction_loss(options: argparse.Namespace) -> ReconstructionLoss:
    """What the options ask for."""
    return ReconstructionLoss(options.error, options.perceptual, options.adversarial, options.critic_from)
