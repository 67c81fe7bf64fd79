"""The training data of the tiny Stable Diffusion 1 and 3: latents of synthetic faces, each with a caption or none.

Alphabet: N faces, B batch, C latent channels, h w height and width of a latent.
"""

import torch
from torch import Tensor

from helpers.autoencoders.kl import DiagonalGaussian, KLAutoencoder
from helpers.autoencoders.train import encode_all, fit_latent_rgb
from helpers.data import load_faces
from helpers.data.captions import CAPTION_VARIANTS, caption_variants

P_UNCOND = 0.1  # share of examples without a caption: classifier-free guidance needs the unconditional prediction


class CaptionedLatents:
    """Latents of the training faces and of their mirrored copies, which have the same captions.

    Attributes:
        texts: N * CAPTION_VARIANTS captions, the wordings of a face one after the other, and the empty one at the end.
        prompts: the full captions of the first faces, for samples.
        rgb_factors: (C, 3) the best linear map from latents to colours, for previews.
    """

    def __init__(self, autoencoder: KLAutoencoder, size: int, limit: int | None = None, *, progress: bool = True):
        """
        Args:
            autoencoder: encodes the images, on its device.
            size: pixels a side.
            limit: use at most so many faces.
            progress: show bars.
        """
        faces = load_faces("toy-faces", "train", size, limit=limit, progress=progress)
        images = faces.tensor()
        self.count = len(faces)
        self.config = autoencoder.config
        self.texts = [*caption_variants(faces.attributes, CAPTION_VARIANTS), ""]
        self.prompts = list(faces.captions[:24])
        self.posteriors = encode_all(autoencoder, torch.cat([images, images.flip(-1)]), progress=progress)
        self.rgb_factors = fit_latent_rgb(self._normalise(self.posteriors.mean[: self.count]), images)

    def sample_indices(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample B examples: int64 (B,) indices of latents, and (B,) indices into `texts`."""
        index = torch.randint(len(self.posteriors.mean), (batch,), generator=generator)
        caption = index % self.count * CAPTION_VARIANTS + torch.randint(CAPTION_VARIANTS, (batch,), generator=generator)
        no_caption = torch.rand(batch, generator=generator) < P_UNCOND
        return index, torch.where(no_caption, len(self.texts) - 1, caption)

    def sample_latents(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Sample the posteriors at these indices: normalised latents float32 (B, C, h, w)."""
        posterior = DiagonalGaussian(self.posteriors.mean[index], self.posteriors.logvar[index])
        return self._normalise(posterior.sample(generator))

    def _normalise(self, z: Tensor) -> Tensor:
        return (z - self.config.shift) * self.config.scale
