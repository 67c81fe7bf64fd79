"""What is in a folder of images, and what would spoil a training on them: `python -m helpers.data check FOLDER`."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from helpers.course import course_home
from helpers.data.collection import Collection
from helpers.data.duplicates import Pair, near_duplicates
from helpers.data.faces import SPLITS, Faces
from helpers.data.images import FORMATS, Entry, central_box
from helpers.data.own_captions import Captions, read_captions
from helpers.data.own_images import Layout, files_of, find_layout, load_own_images, open_collection
from helpers.data.sizes import Size, height_and_width

FEW_OF_A_CLASS = 20  # images; a network remembers so few instead of learning what they share
FEW_IN_ALL = 500
IMBALANCE = 10  # how many times more images the largest class has than the smallest
USED = 0.5  # the share of an image that should be left when its central part is cropped
BLANK = 3.0  # standard deviation of each colour, of 255, below which an image shows nothing
GREY = 2.0  # mean difference of the colour channels, of 255, below which an image is grey
COLOUR_CAST = 40.0  # difference between the means of two colour channels of a class, of 255
LONG_CAPTION = 64  # words; a training cuts captions at as many tokens, of which a word has one or a few
SHARE = 0.02  # of all images, from which what single images have is worth a word
NAMED = 3  # files that a finding names


class Finding(NamedTuple):
    """One thing that would spoil a training."""

    name: str  # a word or two
    text: str  # what is wrong, where, and what to do


@dataclass(frozen=True)
class Inspection:
    """All that the checks look at."""

    layout: Layout
    archives: list[str]  # paths of zips inside the folder, which nobody looks into
    size: Size  # that the images are loaded at
    sides: dict[str, tuple[int, int]]  # path -> width and height of the file
    transparent: list[str]  # paths
    faces: dict[str, Faces]  # split -> images; without the splits that have none
    paths: dict[str, list[str]]  # split -> path of each of its images
    captions: Captions

    def every_image(self) -> Iterator[tuple[str, np.ndarray]]:
        """Path and pixels, uint8 (3, H, W), of every image of every split."""
        for split, faces in self.faces.items():
            yield from zip(self.paths[split], faces.images, strict=True)


def inspect_images(path: Path, size: Size = 64, cache_dir: Path | None = None, *, progress: bool = True) -> Inspection:
    """Read a folder or zip of images.

    Args:
        path: of the folder or zip.
        size: H = W, or (H, W), in pixels that a training would load them at; they are then in its cache already.
        cache_dir, progress: as for `helpers.data.load_faces`.

    Raises:
        FileNotFoundError, ValueError, PermissionError: as `load_own_images`.
    """
    collection = open_collection(path)
    layout = find_layout(collection)
    sides: dict[str, tuple[int, int]] = {}
    transparent = []
    for file in layout.files:
        header = _header(collection, file.path)
        if header is not None:
            sides[file.path] = header.size
            if header.mode in ("RGBA", "LA", "PA") or "transparency" in header.info:
                transparent.append(file.path)
    faces = {}
    paths = {}
    for split in SPLITS:
        files = files_of(layout, split)
        if not files:
            continue
        folder = cache_dir if cache_dir is not None else course_home() / "cache"
        faces[split] = load_own_images(path, split, size, cache_dir=folder, progress=progress)
        bad = {skipped.path for skipped in faces[split].skipped}
        paths[split] = [file.path for file in files if file.path not in bad]
    archives = [path for path in collection.files if path.lower().endswith(".zip")]
    captions = read_captions(collection, [file.path for file in layout.files])
    return Inspection(layout, archives, size, sides, transparent, faces, paths, captions)


def _header(collection: Collection, path: str) -> Image.Image | None:
    """An opened image whose pixels were not read; None for a file that is no image."""
    try:
        data = collection.read(Entry(path, collection.files[path], 0))
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # whatever is wrong with it, loading says so
        return None


def describe(inspection: Inspection) -> list[str]:
    """Lines that say what is there: images of each class and split, the sizes of the files, and the captions."""
    lines = []
    for split, faces in inspection.faces.items():
        counts = ", ".join(f"{count} {name}" for name, count in faces.counts.items())
        lines.append(f"{split}: {len(faces)} images ({counts})")
    if "val" not in inspection.faces:
        lines.append("val: none; nothing is held out of classes this small")
    shorter = sorted(min(sides) for sides in inspection.sides.values())
    if shorter:
        middle = statistics.median_low(shorter)
        lines.append(f"shorter side of the files: {shorter[0]} to {shorter[-1]} px, median {middle} px")
    captions = inspection.captions.by_path
    if captions:
        total = len(inspection.layout.files)
        lengths = sorted(len(caption.split()) for caption in captions.values())
        middle = statistics.median_low(lengths)
        lines.append(
            f"captions: {len(captions)} of {total} images, {lengths[0]} to {lengths[-1]} words, median {middle}"
        )
    return lines


def find_faults(inspection: Inspection) -> list[Finding]:
    """Everything that would spoil a training on these images."""
    findings: list[Finding] = []
    for look in CHECKS:
        findings += look(inspection)
    return findings


# --- the checks, each of which yields at most one finding of a name --------------------------------------------------


def _unreadable(inspection: Inspection) -> Iterator[Finding]:
    explained = {skipped.path for skipped in (*inspection.layout.skipped, *inspection.captions.unused)}
    bad: dict[str, str] = {}
    for faces in inspection.faces.values():
        bad |= {file.path: file.reason for file in faces.skipped if file.path not in explained}
    if bad:
        listed = "; ".join(f"{path}: {reason}" for path, reason in list(bad.items())[:NAMED])
        yield Finding("unreadable", f"{len(bad)} files cannot be read ({listed}): replace or delete them")


def _not_used(inspection: Inspection) -> Iterator[Finding]:
    paths_by_reason: dict[str, list[str]] = {}
    for file in inspection.layout.skipped:
        paths_by_reason.setdefault(file.reason, []).append(file.path)
    if paths_by_reason:
        listed = "; ".join(f"{_listed(paths)} ({reason})" for reason, paths in paths_by_reason.items())
        yield Finding("not used", f"{len(inspection.layout.skipped)} images are not used: {listed}")


def _archives(inspection: Inspection) -> Iterator[Finding]:
    if inspection.archives:
        text = f"{len(inspection.archives)} zips lie among the images and are not looked into: "
        yield Finding("archives", f"{text}{_listed(inspection.archives)}. Unpack them, or name one as the source")


def _small(inspection: Inspection) -> Iterator[Finding]:
    needed = min(height_and_width(inspection.size))
    small = [path for path, sides in inspection.sides.items() if min(sides) < needed]
    if small:
        text = f"{len(small)} files have fewer than {needed} pixels a side and are enlarged: {_listed(small)}"
        yield Finding("too small", f"{text}. Take larger ones or a smaller --size")


def _elongated(inspection: Inspection) -> Iterator[Finding]:
    shape = height_and_width(inspection.size)
    cropped = [path for path, sides in inspection.sides.items() if _used_share(sides, *shape) < USED]
    if len(cropped) > SHARE * len(inspection.sides):
        text = f"less than half is used of {len(cropped)} files, for they are long and narrow: {_listed(cropped)}"
        text += ". Only the largest central part that has the shape of --size is used: "
        yield Finding("elongated", f"{text}crop them to what they should show, or give --size a height and a width")


def _used_share(sides: tuple[int, int], height: int, width: int) -> float:
    """The share of an image's area that is left when its central part of this shape is cropped."""
    left, top, right, bottom = central_box(sides, height, width)
    return (right - left) * (bottom - top) / (sides[0] * sides[1])


def _transparent(inspection: Inspection) -> Iterator[Finding]:
    if inspection.transparent:
        text = f"{len(inspection.transparent)} files have transparent parts: {_listed(inspection.transparent)}"
        yield Finding("transparent", f"{text}. These become white; flatten them onto another ground if white is wrong")


def _blank(inspection: Inspection) -> Iterator[Finding]:
    blank = [path for path, pixels in inspection.every_image() if pixels.std((1, 2)).max() < BLANK]
    if blank:
        yield Finding("blank", f"{len(blank)} images show a single colour: {_listed(blank)}. Delete them")


def _grey(inspection: Inspection) -> Iterator[Finding]:
    grey = []
    for path, pixels in inspection.every_image():
        channels = pixels.astype(np.int16)
        if np.abs(channels - channels.mean(0, keepdims=True)).mean() < GREY:
            grey.append(path)
    count = sum(map(len, inspection.faces.values()))
    if SHARE * count < len(grey) < (1 - SHARE) * count:
        text = f"{len(grey)} of {count} images are grey and the others in colour: {_listed(grey)}"
        yield Finding("grey among colour", f"{text}. What is generated will be both; keep one sort")


def _colour_cast(inspection: Inspection) -> Iterator[Finding]:
    faces = inspection.faces["train"]
    cast = {}
    for name in faces.class_names:
        images = faces.of_class(name).images
        means = images.mean((0, 2, 3)) if len(images) else np.zeros(3)
        if np.ptp(means) > COLOUR_CAST:
            cast[name] = "/".join(f"{mean:.0f}" for mean in means)
    if cast:
        listed = ", ".join(f"{name} {means}" for name, means in cast.items())
        text = f"the mean colour of these classes is far from grey (red/green/blue of 255): {listed}"
        yield Finding("colour cast", f"{text}. Check the white balance, unless the subject has that colour")


def _small_classes(inspection: Inspection) -> Iterator[Finding]:
    counts = inspection.faces["train"].counts
    small = {name: count for name, count in counts.items() if count < FEW_OF_A_CLASS}
    if small:
        listed = ", ".join(f"{name} {count}" for name, count in small.items())
        text = f"these classes have fewer than {FEW_OF_A_CLASS} training images: {listed}"
        yield Finding("small class", f"{text}. The network would learn them by heart; add images, or join classes")
    if min(counts.values()) and max(counts.values()) >= IMBALANCE * min(counts.values()):
        largest = max(counts, key=counts.__getitem__)
        smallest = min(counts, key=counts.__getitem__)
        text = f"{largest} has {counts[largest]} training images and {smallest} {counts[smallest]}"
        yield Finding("imbalance", f"{text}. Training shows all classes equally often, the few images all the more")
    if sum(counts.values()) < FEW_IN_ALL:
        text = f"there are {sum(counts.values())} training images, fewer than {FEW_IN_ALL}"
        advice = "start from trained weights (--start), train briefly, and use --dropout or --augment"
        yield Finding("few images", f"{text}: {advice}")


def _similar_names(inspection: Inspection) -> Iterator[Finding]:
    by_spelling: dict[str, list[str]] = {}
    for name in inspection.layout.class_names:
        by_spelling.setdefault(name.strip().lower().rstrip("s"), []).append(name)
    alike = [names for names in by_spelling.values() if len(names) > 1]
    if alike:
        listed = "; ".join(", ".join(map(repr, names)) for names in alike)
        yield Finding("similar names", f"these classes may be meant as one: {listed}. Join their folders")


def _duplicates(inspection: Inspection) -> Iterator[Finding]:
    train = inspection.faces["train"]
    paths = inspection.paths["train"]
    pairs = near_duplicates(train.images)
    conflicts = [pair for pair in pairs if train.labels[pair.first] != train.labels[pair.second]]
    if pairs:
        text = f"{len(pairs)} pairs of training images are nearly the same: {_listed_pairs(pairs, paths, paths)}"
        yield Finding("duplicates", f"{text}. Delete one of each: a network learns by heart what it sees most often")
    if conflicts:
        text = f"{len(conflicts)} of them are in two classes: {_listed_pairs(conflicts, paths, paths)}"
        yield Finding("two classes", f"{text}. Decide which class is right")
    if "val" in inspection.faces:
        leaks = near_duplicates(inspection.faces["val"].images, train.images)
        if leaks:
            names = _listed_pairs(leaks, inspection.paths["val"], paths)
            text = f"{len(leaks)} images for validation are nearly the same as a training image: {names}"
            yield Finding("leakage", f"{text}. Delete one of each, or every score on them is too good")


def _captions(inspection: Inspection) -> Iterator[Finding]:
    captions = inspection.captions.by_path
    without = [file.path for file in inspection.layout.files if file.path not in captions]
    if captions and without:
        text = f"{len(without)} of {len(inspection.layout.files)} images have no caption: {_listed(without)}"
        yield Finding("no caption", f"{text}. Write them, or train with --captions no")
    if inspection.captions.unused:
        listed = "; ".join(f"{place}: {reason}" for place, reason in inspection.captions.unused[:NAMED])
        text = f"{len(inspection.captions.unused)} captions cannot be used ({listed})"
        yield Finding("captions", f"{text}: correct or delete them")
    long = [path for path, caption in captions.items() if len(caption.split()) > LONG_CAPTION]
    if long:
        text = f"{len(long)} captions have more than {LONG_CAPTION} words: {_listed(long)}"
        yield Finding("long caption", f"{text}. Their ends are cut off; say what matters first")


CHECKS: tuple[Callable[[Inspection], Iterator[Finding]], ...] = (
    _unreadable,
    _not_used,
    _archives,
    _small,
    _elongated,
    _transparent,
    _blank,
    _grey,
    _colour_cast,
    _small_classes,
    _similar_names,
    _duplicates,
    _captions,
)


def _listed(paths: list[str]) -> str:
    """The first few paths."""
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more


def _listed_pairs(pairs: list[Pair], first: list[str], second: list[str]) -> str:
    """The paths of the first few pairs."""
    return _listed([f"{first[pair.first]} and {second[pair.second]}" for pair in pairs])
