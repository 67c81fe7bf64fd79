"""The network of tiny Stable Diffusion: a small U-Net that is told the time, the class and the caption.

Alphabet: B batch, C channels, H W height and width, L words of a caption, D text width. Read it from the bottom:
pictures are folded into patches, go down through a few resolutions and up again, and are unfolded.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.layers.attention import zero_module
from helpers.layers.blocks import AdaGNResidualBlock, TransformerBlock, group_norm
from helpers.layers.embeddings import TimeEmbedding

NO_CLASS = -1  # the label that says "any class": the unconditional half of classifier-free guidance


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a tiny U-Net; every number says why."""

    channels: int = 3  # of what is diffused: 3 for pixels, more for latents
    patch: int = 4  # pixels per side folded into channels: 64x64 costs what 16x16 does
    widths: tuple[int, ...] = (48, 96, 128)  # channels at 16x16, 8x8 and 4x4: most parameters where pixels are few
    blocks: int = 1  # residual blocks per resolution, on the way down and again on the way up
    attention: tuple[bool, ...] = (False, True, True)  # where pixels see each other and the caption: cheap from 8x8 on
    head_width: int = 32  # channels per attention head
    classes: int = 3  # cat, dog, wild
    words: int = 0  # size of the vocabulary; 0: a network without captions, and without cross-attention
    caption_length: int = 18  # tokens per caption
    text_width: int = 128  # D, of the caption's tokens
    condition_width: int = 192  # of the vector that carries time and class to every block
    fine: int = 20  # channels of a thin level around the patches: what the stem cannot carry passes here; 0: none
    fine_patch: int = 2  # pixels per side folded in that level: at half size training is a third faster than at full
    dropout: float = 0.0  # 0.1 where pictures are few and training is long: small data sets are memorised
    augmentation: int = 0  # how many numbers say how a training image was augmented; 0: none does

    def __post_init__(self):
        if len(self.attention) != len(self.widths):
            raise ValueError(f"one attention flag per width, got {len(self.attention)} for {len(self.widths)} widths")
        if self.fine and self.patch > self.fine_patch and self.patch % self.fine_patch:
            raise ValueError(f"patches of {self.patch} pixels cannot be cut into patches of {self.fine_patch}")


class CaptionEncoder(nn.Module):
    """Word numbers to vectors that know their neighbours: embedding, position, one transformer layer."""

    def __init__(self, words: int, length: int, width: int):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, captions: Tensor) -> Tensor:
        """int64 (B, L) -> (B, L, D)."""
        return self.norm(self.layer(self.words(captions) + self.positions))


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by a transformer block where there is attention."""

    def __init__(self, config: UNetConfig, inputs: list[int], width: int, attention: bool, condition_width: int):
        super().__init__()
        self.residual = nn.ModuleList(AdaGNResidualBlock(c, width, condition_width, config.dropout) for c in inputs)
        context = config.text_width if config.words else None
        self.transformer = nn.ModuleList(
            TransformerBlock(width, width // config.head_width, context) for _ in inputs if attention
        )

    def step(self, i: int, x: Tensor, condition: Tensor, context: Tensor | None) -> Tensor:
        x = self.residual[i](x, condition)
        return self.transformer[i](x, context) if self.transformer else x


class TinyUNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) after DDPM and Stable Diffusion, small enough for a laptop."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        blocks = config.blocks
        condition = config.condition_width
        folded = config.channels * config.patch**2
        self.time = TimeEmbedding(widths[0], condition)
        self.classes = nn.Embedding(config.classes + 1, condition)  # the last row stands for "any class"
        self.text = CaptionEncoder(config.words, config.caption_length, config.text_width) if config.words else None
        self.augmentation = nn.Linear(config.augmentation, condition, bias=False) if config.augmentation else None
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down, self.shrink, self.up, self.grow = (nn.ModuleList() for _ in range(4))
        for i, (width, attention) in enumerate(zip(widths, config.attention, strict=True)):
            if i:
                self.shrink.append(nn.Conv2d(widths[i - 1], width, 3, stride=2, padding=1))
                self.grow.append(nn.Conv2d(width, widths[i - 1], 1))  # 1x1 and before the enlarging, where it is cheap
            self.down.append(Level(config, [width] * blocks, width, attention, condition))
            self.up.append(Level(config, [2 * width] * blocks, width, attention, condition))  # skips are concatenated
        self.middle = Level(config, [widths[-1]] * 2, widths[-1], config.attention[-1], condition)
        self.norm = group_norm(widths[0])
        self.fine = None
        if config.fine and config.patch > config.fine_patch:
            self.fold = config.fine_patch
            seen = config.channels * config.fine_patch**2
            self.head = nn.Conv2d(widths[0], config.fine * (config.patch // self.fold) ** 2, 1)
            self.fine = nn.Sequential(
                nn.Conv2d(seen + config.fine, config.fine, 3, padding=1),
                nn.SiLU(),
                zero_module(nn.Conv2d(config.fine, seen, 3, padding=1)),
            )
        else:
            self.head = zero_module(nn.Conv2d(widths[0], folded, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        captions: Tensor | None = None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """One prediction.

        Args:
            x: (B, C, H, W) the noisy state; H and W multiples of patch * 2 ** (levels - 1).
            t: (B,) times in [0, 1].
            labels: int64 (B,) classes, NO_CLASS for "any"; None: any for all.
            captions: int64 (B, L) words, 0 padding; None: all padding, "anything".
            augmentation: (B, config.augmentation) parameters of the images' augmentation; None: not augmented.

        Returns:
            (B, C, H, W), what the objective asks for.

        Raises:
            ValueError: for a height or width that cannot be folded and halved.
        """
        self._check(x)
        labels = x.new_full((len(x),), NO_CLASS, dtype=torch.long) if labels is None else labels
        condition = self.time(t) + self.classes(labels % (self.config.classes + 1))
        if augmentation is not None:  # without a bias, zeros and None are the same
            condition = condition + self.augmentation(augmentation)
        condition = F.silu(condition)
        context = self._context(captions, x)
        seen = x
        x = self.stem(F.pixel_unshuffle(x, self.config.patch))
        skips = []
        for i, level in enumerate(self.down):
            x = self.shrink[i - 1](x) if i else x
            for j in range(self.config.blocks):
                x = level.step(j, x, condition, context)
                skips.append(x)
        for j in range(2):
            x = self.middle.step(j, x, condition, context)
        for i, level in reversed(list(enumerate(self.up))):
            for j in range(self.config.blocks):
                x = level.step(j, torch.cat([x, skips.pop()], dim=1), condition, context)
            x = F.interpolate(self.grow[i - 1](x), scale_factor=2.0, mode="nearest") if i else x
        x = self.head(F.silu(self.norm(x)))
        if self.fine is None:
            return F.pixel_shuffle(x, self.config.patch)
        x = F.pixel_shuffle(x, self.config.patch // self.fold)
        return F.pixel_shuffle(self.fine(torch.cat([F.pixel_unshuffle(seen, self.fold), x], dim=1)), self.fold)

    def _context(self, captions: Tensor | None, x: Tensor) -> Tensor | None:
        if self.text is None:
            return None
        if captions is None:
            captions = torch.zeros(len(x), self.config.caption_length, dtype=torch.long, device=x.device)
        return self.text(captions)

    def _check(self, x: Tensor) -> None:
        fold = self.config.patch * 2 ** (len(self.config.widths) - 1)
        if x.shape[1] != self.config.channels or x.shape[2] % fold or x.shape[3] % fold:
            raise ValueError(
                f"this U-Net takes (B, {self.config.channels}, H, W) with H and W multiples of {fold}, "
                f"got {tuple(x.shape)}"
            )
