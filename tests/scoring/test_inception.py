"""FID through torchmetrics: the same formula as the course's, other features; and what it says without weights."""

import pytest
import torch
from torch import nn

from helpers.scoring.frechet import frechet_distance
from helpers.scoring.inception import FILE, fid, inception_weights


class Corners(nn.Module):
    """Nine features: the means of a picture's ninths."""

    num_features = 9

    def forward(self, pictures):
        return torch.nn.functional.adaptive_avg_pool2d(pictures.double().mean(1), 3).flatten(1)


@pytest.fixture
def two_sets():
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(120, 3, 12, 12, generator=generator) * 2 - 1,
            (torch.rand(80, 3, 12, 12, generator=generator) * 1.6 - 1).clamp(-1, 1))  # fmt: skip


def test_torchmetrics_and_the_course_agree_on_the_distance(two_sets):
    features = [Corners()(((some + 1) * 127.5).round()) for some in two_sets]
    assert fid(*two_sets, network=Corners()) == pytest.approx(frechet_distance(*features).value, rel=1e-6)


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


def test_one_picture_is_no_distribution(two_sets):
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
