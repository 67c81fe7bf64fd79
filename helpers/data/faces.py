"""`Faces`: the images of one dataset with their labels, the type that every notebook and training takes.

Alphabet: N images, C = 3 channels (RGB), H W height and width. Images are stored as uint8 and leave as float32 in
[-1, 1], the range that the samplers clip to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from helpers.data.sizes import height_and_width, size_text, square_side

if TYPE_CHECKING:
    import torch

    from helpers.data.toy_faces import FaceAttributes

SPLITS = ("train", "val")
CLASS_NAMES = ("cat", "dog", "wild")
SIZES = range(8, 1025)  # below 8 nothing is left of a face; above 1024 no source has the pixels


class Skipped(NamedTuple):
    """A file that could not be used."""

    path: str  # inside the folder or zip, with /
    reason: str


@dataclass(frozen=True, eq=False)
class Faces:
    """Images of one source and split with labels; `faces[:100]`, `faces[indices]`, `faces[mask]` are Faces too."""

    images: np.ndarray  # uint8 (N, 3, H, W), possibly a read-only mmap
    labels: np.ndarray  # int64 (N,), positions in class_names
    class_names: tuple[str, ...] = CLASS_NAMES
    captions: tuple[str, ...] | None = None  # DrawnFaces always have them
    attributes: "tuple[FaceAttributes, ...] | None" = None  # likewise
    source: str = ""
    split: str = ""
    credit: str = ""  # licence line, shown wherever photographs are shown
    skipped: tuple[Skipped, ...] = ()  # files of the whole split that could not be used

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (N, 3, H, W), got {self.images.dtype} {self.images.shape}")
        for name in ("labels", "captions", "attributes"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.images):
                raise ValueError(f"{len(self.images)} images, but {len(column)} {name}")
        if len(self.labels) and not (0 <= self.labels.min() and self.labels.max() < len(self.class_names)):
            raise ValueError(f"labels must lie in 0..{len(self.class_names) - 1}, the positions of {self.class_names}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        skipped = f", {len(self.skipped)} files skipped" if self.skipped else ""
        size = size_text(self.height_and_width)
        return f"Faces({self.source} {self.split}, {len(self)} of {size} px: {counts}{skipped})"

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Of the images, in pixels."""
        return height_and_width(self.images.shape[2:])

    @property
    def size(self) -> int:
        """Height and width of square images in pixels. Raises ValueError for others: see `height_and_width`."""
        return square_side(self.height_and_width)

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each class."""
        return {name: int((self.labels == label).sum()) for label, name in enumerate(self.class_names)}

    def __getitem__(self, chosen: slice | Sequence[int] | np.ndarray) -> Self:
        """Select images by slice, integer indices (any order, repeats allowed) or boolean mask (N,).

        A slice is a view of the same pixels; indices and masks copy. The class stays the same.

        Raises:
            TypeError: for a single integer: `faces.images[i]` is the image, `faces[i:i + 1]` a Faces of length 1.
            IndexError: if an index or the mask's length does not fit.
        """
        if isinstance(chosen, (int, np.integer)):
            raise TypeError(f"faces.images[{chosen}] is one image; faces[{chosen}:{chosen + 1}] is a Faces of length 1")
        rows = np.arange(len(self))[_as_index(chosen)]
        return replace(
            self,
            images=self.images[chosen if isinstance(chosen, slice) else rows],
            labels=self.labels[rows],
            captions=None if self.captions is None else tuple(self.captions[row] for row in rows),
            attributes=None if self.attributes is None else tuple(self.attributes[row] for row in rows),
        )

    def of_class(self, name: str) -> Self:
        """Select the images of one class. Raises ValueError for an unknown class."""
        if name not in self.class_names:
            raise ValueError(f"no class {name!r}; there are: {', '.join(self.class_names)}")
        return self[self.labels == self.class_names.index(name)]

    def tensor(
        self, indices: slice | Sequence[int] | np.ndarray | None = None, device: "torch.device | str | None" = None
    ) -> "torch.Tensor":
        """Return the chosen images (None: all) as float32 (B, 3, H, W) in [-1, 1] on `device`."""
        chosen = self.images if indices is None else self.images[_as_index(indices)]
        return to_float(chosen, device)


@dataclass(frozen=True, eq=False, repr=False)
class DrawnFaces(Faces):
    """Synthetic faces: each has a caption and known attributes, so neither is ever None."""

    captions: tuple[str, ...] = ()
    attributes: "tuple[FaceAttributes, ...]" = ()


def _as_index(chosen: slice | Sequence[int] | np.ndarray) -> slice | np.ndarray:
    """The index as NumPy takes it; an empty list would otherwise become float64 and be refused."""
    if isinstance(chosen, slice):
        return chosen
    index = np.asarray(chosen)  # a CPU torch tensor too
    return index.astype(np.int64) if index.size == 0 and index.dtype != bool else index


def to_float(images: "np.ndarray | torch.Tensor", device: "torch.device | str | None" = None) -> "torch.Tensor":
    """Convert uint8 0..255, any shape, to float32 in [-1, 1]: x / 127.5 - 1. Raises TypeError for another dtype."""
    import torch

    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.array(images))  # a copy: torch refuses to share read-only memory quietly
    if images.dtype != torch.uint8:
        raise TypeError(f"to_float expects uint8 images, got {images.dtype}")
    return images.to(device).float() / 127.5 - 1  # moved as bytes: a quarter of the traffic


def to_uint8(x: "torch.Tensor") -> "torch.Tensor":
    """Convert floating-point images in [-1, 1], any shape, to uint8: clamp, then round to nearest. Inverts to_float.

    Raises:
        TypeError: if x is not floating point.
        ValueError: if x holds NaN.
    """
    import torch

    if not torch.is_floating_point(x):
        raise TypeError(f"to_uint8 expects floating point images in [-1, 1], got {x.dtype}")
    if torch.isnan(x).any():
        raise ValueError(f"{int(torch.isnan(x).sum())} of {x.numel()} values are NaN: the sampler or training diverged")
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
