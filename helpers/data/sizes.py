"""The size of an image: one number where it is square, else height and width."""

from collections.abc import Sequence

Size = int | Sequence[int]  # H = W, or (H, W), in pixels


def height_and_width(size: Size) -> tuple[int, int]:
    """Both sides of a size, in pixels."""
    if not isinstance(size, Sequence):
        return int(size), int(size)
    height, width = size
    return int(height), int(width)


def size_text(size: Size) -> str:
    """A size as files are named: "64", or height and width, "96x64"."""
    height, width = height_and_width(size)
    return str(height) if height == width else f"{height}x{width}"


def plain_size(size: Size) -> int | list[int]:
    """A size as JSON stores it: one number where the image is square, else [H, W]."""
    height, width = height_and_width(size)
    return height if height == width else [height, width]


def square_side(size: Size) -> int:
    """The side of a square size. Raises ValueError for another one."""
    height, width = height_and_width(size)
    if height != width:
        raise ValueError(f"images of {height}x{width} pixels are not square: this needs square ones")
    return height
