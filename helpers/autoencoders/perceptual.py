"""Perceptual distance of images, measured in the features of a trained network: LPIPS (Zhang et al. 2018).

Alphabet: B images, C channels, H W pixels.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers.autoencoders.kl import Encoder
from helpers.scoring.attributes import load_classifier

# channels of the convolutions in each stage; max pooling between the stages
VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """The convolutions of VGG16 (Simonyan & Zisserman 2014), named as torchvision names them."""

    mean: Tensor  # (3, 1, 1) of ImageNet's channels
    std: Tensor  # (3, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in VGG_STAGES:
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> the features (B, C, h, w) of the five stages."""
        x = ((images + 1) / 2 - self.mean) / self.std
        features = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                features.append(x)
            x = layer(x)
        return features


class AttributeFeatures(nn.Module):
    """The substitute for VGG16: the first convolutions of the course's classifier of synthetic faces."""

    def __init__(self, stages: int = 3):
        super().__init__()
        self.stages = load_classifier().trunk[:stages]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> the features (B, C, h, w) of each stage."""
        x = images
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class EncoderFeatures(nn.Module):
    """The feature maps of an autoencoder's encoder, one after each resolution."""

    def __init__(self, autoencoder: nn.Module):
        """
        Args:
            autoencoder: of `helpers.autoencoders`: TAESD's architecture, or latent diffusion's with a KL term or a
                codebook.
        """
        super().__init__()
        encoder = autoencoder.get_submodule("encoder")
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
    """The levels of latent diffusion's encoder; the layer that changes the resolution belongs to the next stage."""
    stages: list[nn.Module] = []
    before: list[nn.Module] = [encoder.fold, encoder.stem]
    for level in encoder.down:
        parts = dict(level.named_children())
        stages.append(nn.Sequential(*before, *parts["residual"].children()))
        before = [parts["resample"]] if "resample" in parts else []
    return stages


def _tiny_stages(encoder: nn.Module) -> list[nn.Module]:
    """TAESD's encoder, cut before each strided convolution, without the last layer, which outputs the latent."""
    stages: list[list[nn.Module]] = [[]]
    for layer in list(encoder.children())[:-1]:
        if isinstance(layer, nn.Conv2d) and layer.stride != (1, 1):
            stages.append([])
        stages[-1].append(layer)
    return [nn.Sequential(*stage) for stage in stages]


class PerceptualDistance(nn.Module):
    """Squared difference of the features of two images, normalised to length 1 per position, weighted and averaged."""

    def __init__(self, backbone: nn.Module, weights: list[Tensor] | None, name: str):
        """
        Args:
            backbone: images (B, 3, H, W) in [-1, 1] -> a list of features (B, C, h, w), one per stage.
            weights: (C,) for every stage, those that LPIPS has learned; None: 1 for every channel.
            name: of the backbone, recorded with weights that were trained by this distance.
        """
        super().__init__()
        self.backbone = backbone
        self.name = name
        self.weights = nn.ParameterList(weights) if weights else None
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Do nothing: the feature network always stays in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Two tensors (B, 3, H, W) in [-1, 1] -> distances (B,), 0 for equal images (Zhang et al. 2018, eq. 1)."""
        total = images.new_zeros(len(images))
        for stage, (a, b) in enumerate(zip(self.backbone(images), self.backbone(others), strict=True)):
            difference = (_unit(a) - _unit(b)).square()  # (B, C, h, w)
            weight = self.weights[stage] if self.weights else difference.new_ones(difference.shape[1])  # (C,)
            total = total + torch.einsum("bchw,c->bhw", difference, weight).flatten(1).mean(1)
        return total


def _unit(x: Tensor) -> Tensor:
    """(B, C, h, w) with every position's vector of channels scaled to length 1."""
    return x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt()


def encoder_distance(autoencoder: nn.Module) -> PerceptualDistance:
    """The distance of two images in the feature maps of this autoencoder's encoder, see `EncoderFeatures`."""
    return PerceptualDistance(EncoderFeatures(autoencoder), None, "an autoencoder's encoder")


def load_perceptual(published: bool | None = None) -> PerceptualDistance:
    """Load the course's substitute for LPIPS, or LPIPS itself where that is asked for.

    The substitute was trained on synthetic faces and not fitted to human judgements: its values are not LPIPS.
    `.name` says which one it is. VGG16's weights (528 MB) in torch's cache change nothing unless LPIPS is asked for.

    Args:
        published: True: LPIPS, whose VGG16 comes from torch's cache or is downloaded; None: as the environment variable
            COURSE_LPIPS says, "yes" or nothing.

    Raises:
        FileNotFoundError: for LPIPS without a cached VGG16 and without a network.
        ValueError: for another value of COURSE_LPIPS.
    """
    if published is None:
        setting = os.environ.get("COURSE_LPIPS", "")
        if setting not in ("", "yes", "no"):
            raise ValueError(f"COURSE_LPIPS is yes or no, got {setting!r}")
        published = setting == "yes"
    if not published:
        return PerceptualDistance(
            AttributeFeatures(), None, "substitute: the course's classifier of attributes, not LPIPS"
        )
    from torchvision.models import VGG16_Weights

    try:
        state = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise FileNotFoundError(
            f"LPIPS needs VGG16's weights (528 MB) at {vgg_path()}, and they could not be downloaded ({error}): put "
            "them there, or leave out COURSE_LPIPS=yes"
        ) from error
    return lpips(VGG16(), state)


def lpips(backbone: VGG16, state: dict[str, Tensor] | None = None) -> PerceptualDistance:
    """LPIPS of a VGG16 with the published channel weights, which torchmetrics brings; `state`: VGG16's weights."""
    from torchmetrics.functional import image

    if state is not None:
        backbone.load_state_dict({key: value for key, value in state.items() if key.startswith("features.")})
    heads = torch.load(Path(image.__file__).parent / "lpips_models" / "vgg.pth", weights_only=True, map_location="cpu")
    weights = [heads[f"lin{stage}.model.1.weight"].flatten() for stage in range(len(VGG_STAGES))]
    return PerceptualDistance(backbone, weights, "LPIPS, VGG16")


def vgg_path() -> Path:
    """The file in which torch keeps VGG16's weights once they are downloaded."""
    from torchvision.models import VGG16_Weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(VGG16_Weights.IMAGENET1K_V1.url).name
