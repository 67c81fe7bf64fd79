"""Summaries of a collection: right averages, duplicates that are found, a record small enough to ship."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data import load_faces
from helpers.data.duplicates import correlation, difference_hash, near_duplicates
from helpers.data.faces import Faces
from helpers.data.summary import (
    RECORD,
    THRESHOLDS,
    file_statistics,
    load_summary,
    principal_components,
    save_summary,
    summarise,
)
from pages.record import ROOT

PUBLISHED = {"cat": 4248, "dog": 2845, "wild": 1128}  # training images of the collection, as its README states them


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Faces, Faces]:
    cache = tmp_path_factory.mktemp("cache")
    train = load_faces("toy-faces", "train", 32, limit=90, cache_dir=cache, progress=False)
    val = load_faces("toy-faces", "val", 32, limit=30, cache_dir=cache, progress=False)
    return train, val


def copied(image: np.ndarray) -> np.ndarray:
    """(3, H, W), dimmer and with less contrast, as another scan of the same photograph."""
    return (image * 0.8 + 10).astype(np.uint8)


def test_averages_are_those_of_the_images(faces: tuple[Faces, Faces]) -> None:
    train, val = faces
    summary = summarise(train, val)
    cats = train.of_class("cat").tensor()
    torch.testing.assert_close(summary.means[0], cats.mean(0))
    torch.testing.assert_close(summary.deviations[0], cats.std(0).mean(0, keepdim=True))
    torch.testing.assert_close(summary.histograms.sum(2), torch.ones(3, 3))
    assert summary.colours["cat"]["mean R"] == pytest.approx(cats[:, 0].mean().item(), abs=1e-4)
    assert summary.counts == {"train": train.counts, "val": val.counts} and summary.averaged == 90


def test_classes_weigh_the_same_however_many_they_have(faces: tuple[Faces, Faces]) -> None:
    train, val = faces
    uneven = train[np.concatenate([np.flatnonzero(train.labels == 0), np.flatnonzero(train.labels != 0)[:20]])]
    summary = summarise(uneven, val)
    smallest = min(uneven.counts.values())
    assert smallest < uneven.counts["cat"] and summary.averaged == 3 * smallest
    torch.testing.assert_close(summary.means[0], uneven.of_class("cat").tensor(slice(0, smallest)).mean(0))


def test_eigenfaces_are_the_principal_directions(faces: tuple[Faces, Faces]) -> None:
    x = faces[0].tensor()
    eigenfaces, explained = principal_components(x)
    flat = x.flatten(1) - x.flatten(1).mean(0)
    _, values, directions = torch.linalg.svd(flat, full_matrices=False)
    alike = torch.nn.functional.cosine_similarity(eigenfaces.flatten(1), directions[: len(eigenfaces)]).abs()
    assert alike.min() > 0.999
    share = (values.square() / values.square().sum()).cumsum(0)
    torch.testing.assert_close(explained[:80], share[:80], atol=1e-4, rtol=0)
    torch.testing.assert_close(eigenfaces.flatten(1).amax(1), torch.ones(len(eigenfaces)))


def test_planted_copies_are_found_and_nothing_else(faces: tuple[Faces, Faces]) -> None:
    train, val = faces
    planted = np.concatenate([train.images, copied(train.images[7])[None]])
    (pair,) = near_duplicates(planted)
    assert pair[:2] == (7, len(train)) and pair.correlation > 0.99
    assert near_duplicates(train.images) == [] and near_duplicates(val.images, train.images) == []
    (across,) = near_duplicates(copied(train.images[5])[None], train.images)
    assert across[:2] == (0, 5)


def test_hash_and_correlation(faces: tuple[Faces, Faces]) -> None:
    images = faces[0].images[:4]
    assert difference_hash(images).shape == (4, 64)
    assert correlation(images, images).min() > 0.999
    assert correlation(images, 255 - images).max() < -0.999


def test_written_and_read(faces: tuple[Faces, Faces], tmp_path: Path) -> None:
    summary = summarise(*faces, files={"cat": {"median kB": 1.0}})
    save_summary(summary, tmp_path / "record")
    loaded = load_summary(tmp_path / "record")
    assert (loaded.counts, loaded.averaged, loaded.duplicates) == (summary.counts, summary.averaged, summary.duplicates)
    assert loaded.files == summary.files and loaded.colours == summary.colours
    torch.testing.assert_close(loaded.means, summary.means, atol=1 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(loaded.eigenfaces, summary.eigenfaces, atol=1 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(loaded.explained, summary.explained)


def test_sizes_that_differ_are_refused(faces: tuple[Faces, Faces]) -> None:
    small = Faces(faces[1].images[:, :, ::2, ::2], faces[1].labels)
    with pytest.raises(ValueError, match="one size"):
        summarise(faces[0], small)


def test_what_files_say(tmp_path: Path) -> None:
    for name in ("cat", "dog", "wild"):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 50)).save(folder / "a.png")
        Image.new("RGB", (60, 60)).save(folder / "b.png")
    assert file_statistics(root=tmp_path)["dog"].keys() == {"smallest px", "largest px", "median kB"}
    assert file_statistics(root=tmp_path)["dog"]["smallest px"] == 40
    assert file_statistics(root=tmp_path)["wild"]["largest px"] == 60


def test_the_record_of_the_photographs_holds_averages_of_many() -> None:
    """Small enough to ship, and no single photograph: every average is over more than a thousand."""
    summary = load_summary()
    assert summary.counts["train"] == PUBLISHED
    assert summary.averaged == 3 * min(PUBLISHED.values()) > 3000
    assert sum((ROOT / RECORD).with_suffix(suffix).stat().st_size for suffix in (".json", ".npz")) < 300_000
    assert list(summary.duplicates["within train"]) == [str(threshold) for threshold in THRESHOLDS]
    assert summary.means.shape == (3, 3, 64, 64) and summary.means.abs().max() < 0.6  # fog: averages are pale
