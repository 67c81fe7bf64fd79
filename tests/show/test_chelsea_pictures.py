"""The figures of a real cat at the top of notebooks show what their captions say."""

import torch

from helpers.autoencoders.kl import KLAutoencoder
from helpers.data.chelsea import load_chelsea
from helpers.scoring.reconstruction import psnr
from helpers.sd3.pipeline import StableDiffusion3
from helpers.tiny_sd.model import TinySD
from pages.pictures.chelsea import PATCH, decoded, latent_channels, pieces_of


@torch.no_grad()
def test_more_channels_keep_more_of_her_and_photographs_teach_more_than_synthetic_faces() -> None:
    image = load_chelsea()
    four = psnr(image, decoded(KLAutoencoder.from_weights("autoencoder"), image))
    sixteen = psnr(image, decoded(StableDiffusion3.from_weights().autoencoder, image))
    codec = TinySD.from_weights("tiny_sd_animals").codec
    photographs = psnr(image, codec.decode(codec.encode(image)).clamp(-1, 1))
    assert four + 1 < sixteen < photographs


def test_she_is_cut_into_patches_from_which_she_can_be_put_together() -> None:
    image = load_chelsea()
    strips = [strip[:, :, 1:-1] for strip in pieces_of(image, 2)]
    assert len(strips) == 64 // PATCH and torch.equal(torch.cat(strips, dim=2), image)
    assert all(len(pieces_of(strip, 3)) == 8 for strip in strips)


def test_every_channel_of_the_latent_is_shown() -> None:
    figure = latent_channels(KLAutoencoder.from_weights("autoencoder"))
    assert [text.get_text() for text in figure.texts] == ["Chelsea", *(f"channel {k}" for k in range(4)), "decoded"]
