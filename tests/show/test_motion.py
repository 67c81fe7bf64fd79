"""The animation of README and pages: small, short, described, and never alone for readers who want no motion."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from pages.build import IMAGES
from pages.pictures import motion

ROOT = Path(__file__).resolve().parents[2]
ANIMATION = IMAGES / "noise_to_animals.webp"
STILL = IMAGES / "noise_to_animals_still.webp"


def frames_of(path: Path) -> list[Image.Image]:
    return [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(path))]


def test_it_is_small_short_and_stops() -> None:
    assert ANIMATION.stat().st_size <= motion.MOST_BYTES and STILL.stat().st_size <= motion.MOST_BYTES
    frames = frames_of(ANIMATION)
    seconds = motion.TIMES * ((len(frames) - 1) * motion.FRAME_SECONDS + motion.LAST_SECONDS)
    assert len(frames) > 10 and seconds < 5  # longer motion would need a pause button: WCAG 2.2.2
    assert Image.open(ANIMATION).info["loop"] == motion.TIMES


def test_wherever_it_is_shown_the_film_strip_stands_beside_it() -> None:
    pages = [ROOT / "README.md", ROOT / "pages" / "index.md", ROOT / "notebooks" / "00_first_success.ipynb"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert ANIMATION.name in text and STILL.name in text, page.name
    assert "prefers-reduced-motion" in (ROOT / "README.md").read_text(encoding="utf-8")
    rules = (ROOT / "pages" / "_static" / "course.css").read_text(encoding="utf-8")
    assert re.search(r"prefers-reduced-motion: reduce\)\s*{[^}]*noise_to_animals", rules)


def test_frames_and_strip_of_any_trajectory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    frames = torch.rand(5, 6, 3, 16, 16) * 2 - 1
    (tmp_path / "a.webp").write_bytes(motion.animated(motion.sheets(frames, columns=3)))
    drawn = frames_of(tmp_path / "a.webp")
    assert len(drawn) == 5 and drawn[0].size == (3 * motion.SIDE, 2 * motion.SIDE)
    strip = motion.film_strip(frames, shown=4)
    side = motion.SIDE
    assert strip.size == (4 * side, 3 * side)  # the first image of each pair, a row each
    inner = slice(side // 4, -side // 4)  # away from the seams, which Lanczos blurs
    last = np.asarray(strip.crop((3 * side, 0, 4 * side, side)), dtype=int)[inner, inner]
    expected = np.asarray(motion.sheets(frames[-1:, :1], columns=1)[0], dtype=int)[inner, inner]
    assert abs(last - expected).max() <= 1


def test_what_does_not_fit_is_refused() -> None:
    frames = torch.rand(3, 6, 3, 16, 16) * 2 - 1
    with pytest.raises(ValueError, match="more than 100: fewer frames or smaller tiles"):
        motion.animated(motion.sheets(frames), most=100)
