"""Options of from_checkpoint: a bad one is refused by name, before gigabytes are read."""

import pytest
import torch

from helpers.sd1 import checkpoint


@pytest.fixture
def reads(monkeypatch) -> list:
    """The checkpoints that were read."""
    reads = []
    read = checkpoint.read

    def recorded(source, **options):
        reads.append(source)
        return read(source, **options)

    monkeypatch.setattr(checkpoint, "read", recorded)
    return reads


@pytest.mark.fault("options", refused=True)
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param("float16"),
        pytest.param("auto"),
        pytest.param(torch.int8),
    ],
    ids=str,
)
def test_dtype_that_is_no_floating_torch_dtype_is_refused(sd1, reads, dtype):
    with pytest.raises((TypeError, ValueError), match="dtype"):
        sd1.load(sd1.folder, dtype=dtype)
    assert not reads, "the weights were read before the refusal"


@pytest.mark.fault("options", refused=True)
def test_unknown_prediction_is_refused(sd1, reads):
    with pytest.raises(ValueError, match="prediction"):
        sd1.load(sd1.folder, prediction="v_prediction")  # the course's name for it is "v"
    assert not reads, "the weights were read before the refusal"


@pytest.mark.fault("options", refused=True)
def test_vocabulary_instead_of_merges_is_refused(sd1):
    with pytest.raises(ValueError, match=r"vocab\.json is no list of merges"):
        sd1.load(sd1.single_file, tokenizer=sd1.tokenizer / "vocab.json")
