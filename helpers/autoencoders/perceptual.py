"""How alike two pictures look to a network that has learned to see: LPIPS (Zhang et al. 2018).

Alphabet: B pictures, C channels, H W pixels.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from helpers.scoring.attributes import load_classifier

VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # a pooling before all but one


class VGG16(nn.Module):
    """The convolutions of VGG16 (Simonyan & Zisserman 2014), named as torchvision names them."""

    def __init__(self):
        super().__init__()
        layers = []
        channels = 3
        for stage in VGG_STAGES:
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> what each of the five stages sees."""
        x = ((pictures + 1) / 2 - self.mean) / self.std
        seen = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                seen.append(x)
            x = layer(x)
        return seen


class AttributeFeatures(nn.Module):
    """The stand-in: the first convolutions of the course's own reader of drawn faces."""

    def __init__(self, stages: int = 3):
        super().__init__()
        self.stages = load_classifier().trunk[:stages]

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> what each stage sees."""
        x = pictures
        seen = []
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        return seen


class PerceptualDistance(nn.Module):
    """Features of two pictures, scaled to length 1 at every position; their squared differences, weighed and averaged.

    `name` says what looks at the pictures.
    """

    def __init__(self, sees: nn.Module, weights: list[Tensor] | None, name: str):
        """`weights`: (C,) for every stage, LPIPS' learned ones; None: all channels alike."""
        super().__init__()
        self.sees = sees
        self.name = name
        self.weights = nn.ParameterList(weights) if weights else None
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Stays as it is: what is measured with does not learn."""
        return super().train(False)

    def forward(self, pictures: Tensor, others: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] each -> (B,), 0 for equal pictures (Zhang et al. 2018, eq. 1)."""
        total = pictures.new_zeros(len(pictures))
        for stage, (a, b) in enumerate(zip(self.sees(pictures), self.sees(others), strict=True)):
            difference = (_unit(a) - _unit(b)).square()  # (B, C, h, w)
            weight = self.weights[stage] if self.weights else difference.new_ones(difference.shape[1])
            total = total + torch.einsum("bchw,c->bhw", difference, weight).flatten(1).mean(1)
        return total


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt()


def load_perceptual(download: bool = False) -> PerceptualDistance:
    """LPIPS where VGG16's weights are in torch's cache or may be downloaded (528 MB); else the stand-in.

    The stand-in has only seen drawn faces and knows no human judgements: its numbers are not LPIPS. Look at `.name`.
    """
    path = vgg_path()
    if not (path.exists() or download):
        return PerceptualDistance(AttributeFeatures(), None, "stand-in: the course's reader of drawn faces, not LPIPS")
    from torchvision.models import VGG16_Weights

    state = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    return lpips(VGG16(), state)


def lpips(sees: VGG16, state: dict[str, Tensor] | None = None) -> PerceptualDistance:
    """LPIPS of a VGG16, with the published weights of its channels, which torchmetrics carries."""
    from torchmetrics.functional import image

    if state is not None:
        sees.load_state_dict({key: value for key, value in state.items() if key.startswith("features.")})
    heads = torch.load(Path(image.__file__).parent / "lpips_models" / "vgg.pth", weights_only=True, map_location="cpu")
    weights = [heads[f"lin{stage}.model.1.weight"].flatten() for stage in range(len(VGG_STAGES))]
    return PerceptualDistance(sees, weights, "LPIPS, VGG16")


def vgg_path() -> Path:
    """Where torch keeps VGG16's weights once they are downloaded."""
    from torchvision.models import VGG16_Weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(VGG16_Weights.IMAGENET1K_V1.url).name
