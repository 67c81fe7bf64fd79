"""The network of tiny Stable Diffusion: a small U-Net, conditioned on the time, the class and the caption.

Alphabet: B batch, C channels, H W height and width, L tokens of a caption, D text width. Read it from the bottom:
patches of pixels become channels (`pixel_unshuffle`), go through a few resolutions down and up, and become pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.layers.attention import zero_module
from helpers.layers.blocks import AdaGNResidualBlock, TransformerBlock, group_norm
from helpers.layers.embeddings import TimeEmbedding

NO_CLASS = -1  # the label of "any class": for the unconditional prediction of classifier-free guidance


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a tiny U-Net; every number says why."""

    channels: int = 3  # of what is diffused: 3 for pixels, more for latents
    patch: int = 4  # pixels per side that become channels: 64x64 costs as much as 16x16
    widths: tuple[int, ...] = (48, 96, 128)  # channels at 16x16, 8x8 and 4x4: most parameters where positions are few
    blocks: int = 1  # residual blocks per resolution, on the way down and on the way up
    attention: tuple[bool, ...] = (False, True, True)  # self- and cross-attention at this resolution: cheap from 8x8 on
    head_width: int = 32  # channels per attention head
    classes: int = 3  # cat, dog, wild
    vocab_size: int = 0  # known words; 0: a network without captions, and without cross-attention
    caption_length: int = 18  # tokens per caption
    text_width: int = 128  # D, of the caption's tokens
    condition_width: int = 192  # of the embedding of time and class that every block receives
    detail_channels: int = 20  # of a narrow level around the patches, for detail that the stem cannot carry; 0: none
    detail_patch: int = 2  # pixels per side that become channels there: with 2, training is a third faster than with 1
    dropout: float = 0.0  # 0.1 where images are few and training is long: small datasets are memorised
    augmentation: int = 0  # parameters of a training image's augmentation, an input; 0: no such input

    def __post_init__(self):
        if len(self.attention) != len(self.widths):
            raise ValueError(f"one attention flag per width, got {len(self.attention)} for {len(self.widths)} widths")
        if self.detail_channels and self.patch > self.detail_patch and self.patch % self.detail_patch:
            raise ValueError(f"patches of {self.patch} pixels cannot be cut into patches of {self.detail_patch}")


class CaptionEncoder(nn.Module):
    """Tokens to contextual embeddings: token embedding, position embedding, one transformer layer."""

    def __init__(self, vocab_size: int, length: int, width: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, captions: Tensor) -> Tensor:
        """int64 (B, L) -> (B, L, D)."""
        return self.norm(self.layer(self.token_embedding(captions) + self.positions))


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by a transformer block where there is attention."""

    def __init__(self, config: UNetConfig, inputs: list[int], width: int, attention: bool, condition_width: int):
        super().__init__()
        self.residual = nn.ModuleList(AdaGNResidualBlock(c, width, condition_width, config.dropout) for c in inputs)
        context = config.text_width if config.vocab_size else None
        self.transformer = nn.ModuleList(
            TransformerBlock(width, width // config.head_width, context) for _ in inputs if attention
        )

    def forward(
        self, x: Tensor, condition: Tensor, context: Tensor | None, skips: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Apply all blocks; returns the output of each, the level's output last.

        Args:
            x: (B, C, H, W); condition: (B, condition_width); context: (B, L, D) or None.
            skips: on the way up, the outputs of the way down; each block takes the last one as additional channels.
        """
        outputs = []
        for i, residual in enumerate(self.residual):
            if skips is not None:
                x = torch.cat([x, skips.pop()], dim=1)
            x = residual(x, condition)
            if self.transformer:
                x = self.transformer[i](x, context)
            outputs.append(x)
        return outputs


class TinyUNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) after DDPM and Stable Diffusion, small enough for a laptop."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        blocks = config.blocks
        condition = config.condition_width
        patch_channels = config.channels * config.patch**2
        self.time = TimeEmbedding(widths[0], condition)
        self.classes = nn.Embedding(config.classes + 1, condition)  # the last row stands for "any class"
        self.text = (
            CaptionEncoder(config.vocab_size, config.caption_length, config.text_width) if config.vocab_size else None
        )
        self.augmentation = nn.Linear(config.augmentation, condition, bias=False) if config.augmentation else None
        self.stem = nn.Conv2d(patch_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList()
        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for i, (width, attention) in enumerate(zip(widths, config.attention, strict=True)):
            if i:
                self.downsample.append(nn.Conv2d(widths[i - 1], width, 3, stride=2, padding=1))
                self.upsample.append(
                    nn.Conv2d(width, widths[i - 1], 1)
                )  # 1x1, and before the upsampling, where it is cheap
            self.down.append(Level(config, [width] * blocks, width, attention, condition))
            self.up.append(Level(config, [2 * width] * blocks, width, attention, condition))  # skips are concatenated
        self.middle = Level(config, [widths[-1]] * 2, widths[-1], config.attention[-1], condition)
        self.norm = group_norm(widths[0])
        self.head: nn.Module
        self.detail: nn.Module | None = None
        if config.detail_channels and config.patch > config.detail_patch:
            folded_channels = config.channels * config.detail_patch**2
            self.head = nn.Conv2d(widths[0], config.detail_channels * (config.patch // config.detail_patch) ** 2, 1)
            self.detail = nn.Sequential(
                nn.Conv2d(folded_channels + config.detail_channels, config.detail_channels, 3, padding=1),
                nn.SiLU(),
                zero_module(nn.Conv2d(config.detail_channels, folded_channels, 3, padding=1)),
            )
        else:
            self.head = zero_module(nn.Conv2d(widths[0], patch_channels, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        captions: Tensor | None = None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """Predict the objective's target.

        Args:
            x: (B, C, H, W) the noisy state; H and W multiples of patch * 2 ** (levels - 1).
            t: (B,) times in [0, 1].
            labels: int64 (B,) classes, NO_CLASS for "any"; None: any for all.
            captions: int64 (B, L) tokens, 0 padding; None: all padding, the unconditional caption.
            augmentation: (B, config.augmentation) parameters of the images' augmentation; None: not augmented.

        Returns:
            (B, C, H, W).

        Raises:
            ValueError: for a height or width that cannot be cut into patches and halved, and for an augmentation in a
                network without that input.
        """
        self._check(x)
        labels = x.new_full((len(x),), NO_CLASS, dtype=torch.long) if labels is None else labels
        condition = self.time(t) + self.classes(labels % (self.config.classes + 1))
        if augmentation is not None:  # without a bias, zeros and None are the same
            if self.augmentation is None:
                raise ValueError("this network has no input for an augmentation: UNetConfig(augmentation=...)")
            condition = condition + self.augmentation(augmentation)
        condition = F.silu(condition)
        context = self._context(captions, x)

        h = self.stem(F.pixel_unshuffle(x, self.config.patch))
        skips: list[Tensor] = []
        for i, level in enumerate(self.down):
            if i > 0:
                h = self.downsample[i - 1](h)
            skips += level(h, condition, context)
            h = skips[-1]
        h = self.middle(h, condition, context)[-1]
        for i, level in reversed(list(enumerate(self.up))):
            h = level(h, condition, context, skips)[-1]
            if i > 0:
                h = F.interpolate(self.upsample[i - 1](h), scale_factor=2.0, mode="nearest")
        h = self.head(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, self.config.patch) if self.detail is None else self._with_detail(h, x, self.detail)

    def _with_detail(self, h: Tensor, x: Tensor, detail: nn.Module) -> Tensor:
        """The narrow level at (almost) full resolution: it sees the noisy input beside the head's output h."""
        patch = self.config.detail_patch
        h = F.pixel_shuffle(h, self.config.patch // patch)
        return F.pixel_shuffle(detail(torch.cat([F.pixel_unshuffle(x, patch), h], dim=1)), patch)

    def _context(self, captions: Tensor | None, x: Tensor) -> Tensor | None:
        """The caption's embeddings (B, L, D), or None in a network without captions."""
        if self.text is None:
            return None
        if captions is None:
            captions = torch.zeros(len(x), self.config.caption_length, dtype=torch.long, device=x.device)
        return self.text(captions)

    def _check(self, x: Tensor) -> None:
        multiple = self.config.patch * 2 ** (len(self.config.widths) - 1)
        if x.shape[1] != self.config.channels or x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(
                f"this U-Net takes (B, {self.config.channels}, H, W) with H and W multiples of {multiple}, "
                f"got {tuple(x.shape)}"
            )
