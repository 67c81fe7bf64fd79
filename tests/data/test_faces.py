"""`Faces` and the two conversions between bytes and [-1, 1]."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import DrawnFaces, Faces, load_faces
from helpers.data.faces import to_float, to_uint8


def some_faces(count: int = 10) -> Faces:
    rng = np.random.default_rng(0)
    return Faces(
        rng.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8),
        np.arange(count) % 3,
        captions=tuple(f"face {i}" for i in range(count)),
        attributes=tuple(range(count)),
    )


def same(faces: Faces, whole: Faces, rows: np.ndarray) -> bool:
    return (
        np.array_equal(faces.images, whole.images[rows])
        and np.array_equal(faces.labels, whole.labels[rows])
        and faces.captions == tuple(f"face {i}" for i in rows)
        and faces.attributes == tuple(rows)
    )


@settings(deadline=None, max_examples=40)
@given(st.slices(10))
def test_a_slice_takes_every_column_along(chosen: slice) -> None:
    faces = some_faces()
    assert same(faces[chosen], faces, np.arange(10)[chosen])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-10, 9)))
def test_indices_take_every_column_along(chosen: list[int]) -> None:
    faces = some_faces()
    assert same(faces[chosen], faces, np.arange(10)[np.array(chosen, dtype=int)])
    assert torch.equal(faces.tensor(chosen), faces[chosen].tensor())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.booleans(), min_size=10, max_size=10))
def test_a_mask_takes_every_column_along(chosen: list[bool]) -> None:
    faces = some_faces()
    assert same(faces[chosen], faces, np.flatnonzero(chosen))
    assert same(faces[torch.tensor(chosen)], faces, np.flatnonzero(chosen))


def test_what_does_not_fit_is_refused() -> None:
    faces = some_faces()
    with pytest.raises(TypeError, match=r"faces\.images\[3\] is one image"):
        faces[3]
    with pytest.raises(IndexError):
        faces[[10]]
    with pytest.raises(IndexError):
        faces[[True, False]]
    with pytest.raises(ValueError, match="no class 'horse'; there are: cat, dog, wild"):
        faces.of_class("horse")
    with pytest.raises(ValueError, match="10 images, but 9 labels"):
        Faces(faces.images, faces.labels[:9])
    with pytest.raises(ValueError, match="labels must lie in 0..2"):
        Faces(faces.images, faces.labels + 1)
    with pytest.raises(ValueError, match="uint8"):
        Faces(faces.images.astype(np.float32), faces.labels)


def test_drawn_faces_always_have_captions_and_attributes() -> None:
    faces = some_faces()
    with pytest.raises(ValueError, match="10 images, but 0 captions"):
        DrawnFaces(faces.images, faces.labels, attributes=faces.attributes)
    with pytest.raises(ValueError, match="10 images, but 0 attributes"):
        DrawnFaces(faces.images, faces.labels, captions=faces.captions)


def test_drawn_faces_stay_drawn_faces(tmp_path: Path) -> None:
    faces = load_faces("toy-faces", size=8, limit=6, cache_dir=tmp_path, progress=False)
    for selection in (faces, faces[2:4], faces[[5, 0]], faces[faces.labels == 1], faces.of_class("wild")):
        assert type(selection) is DrawnFaces
        assert len(selection.captions) == len(selection.attributes) == len(selection)
    assert [face.species for face in faces.of_class("wild").attributes] == ["wild", "wild"]
    assert type(some_faces()[:2]) is Faces


def test_counts_and_classes() -> None:
    faces = some_faces()
    assert faces.counts == {"cat": 4, "dog": 3, "wild": 3}
    assert set(faces.of_class("dog").labels) == {1}
    assert faces.of_class("dog").counts == {"cat": 0, "dog": 3, "wild": 0}
    assert (len(faces), faces.size) == (10, 8)


def test_tensor_has_the_samplers_range() -> None:
    images = np.zeros((1, 3, 8, 8), np.uint8)
    images[0, 1] = 255
    images[0, 2] = 51
    x = Faces(images, np.zeros(1, int)).tensor()
    assert x.dtype == torch.float32 and x.shape == (1, 3, 8, 8)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


def test_every_byte_survives_the_round_trip() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(values)), values)
    assert torch.equal(to_uint8(to_float(values.numpy())), values)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_to_uint8_clamps_and_rounds_to_the_nearest(values: list[float]) -> None:
    back = to_float(to_uint8(torch.tensor(values)))
    assert (back - torch.tensor(values).clamp(-1, 1)).abs().max() <= 1 / 255 + 1e-6


def test_conversions_refuse_the_wrong_kind() -> None:
    with pytest.raises(TypeError, match="expects uint8"):
        to_float(torch.zeros(3))
    with pytest.raises(TypeError, match="floating point"):
        to_uint8(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="1 of 3 values are NaN"):
        to_uint8(torch.tensor([0.0, float("nan"), 1.0]))


def test_to_float_leaves_the_images_alone() -> None:
    images = np.zeros((1, 3, 8, 8), np.uint8)
    images.flags.writeable = False
    to_float(images).add_(1)
    assert images.sum() == 0


@pytest.mark.fault("options", refused=True)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"source": "real"},
            "unknown source 'real': neither one of toy-faces, animal-faces nor a folder",
        ),
        ({"split": "test"}, "unknown split 'test'; there are: train, val"),
        ({"size": 4}, "from 8 to 1024"),
        ({"size": 64.5}, "whole number"),
        ({"size": 64.0}, "whole number from 8 to 1024"),
        ({"size": "64"}, "whole number from 8 to 1024"),
        ({"size": 2000}, "whole number from 8 to 1024"),
        ({"size": -64}, "whole number from 8 to 1024"),
        ({"limit": 0}, "at least 1"),
        ({"limit": -5}, "at least 1"),
        ({"limit": 2.5}, "limit must be a whole number"),
        ({"seed": -1}, "seed must be a whole number, at least 0"),
        ({"seed": 0.5}, "seed must be a whole number, at least 0"),
        ({"root": "somewhere"}, "drawn, not read"),
    ],
)
def test_load_faces_says_what_was_wrong(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_faces(**wrong)
