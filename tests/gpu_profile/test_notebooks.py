"""Every code cell of the notebooks that have a gpu branch runs in that profile, in miniature; planted faults are found.

The other notebooks are the same in both profiles, except for sections that load published weights: the comparison with
their stored outputs executes them.
"""

from pathlib import Path

import pytest

from helpers.course import repository_root
from tests.gpu_profile.miniature import cells, execute, has_gpu_branch, needed

NOTEBOOKS = [path for path in sorted((repository_root() / "notebooks").glob("*.ipynb")) if has_gpu_branch(cells(path))]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_in_the_gpu_profile(path: Path, gpu_profile: Path) -> None:
    execute(cells(path), path.stem)


def test_a_branch_is_noticed() -> None:
    assert has_gpu_branch(["x = 1", "def f():\n    return x.to(course.device)"])
    assert not has_gpu_branch(["print(course.profile)", "if source:\n    model = load(source).to(course.device)"])


PIXELS = "09_tiny_sd_pixels"
VAL_LOSS = 'assert val_loss(build_model("flow"))'


@pytest.mark.parametrize(
    ("right", "wrong", "cell", "error", "message"),
    [
        (
            "val_noise = torch.randn(val_x.shape, generator=rng).to(course.device)",
            "val_noise = torch.randn(val_x.shape, generator=rng)",
            VAL_LOSS,
            RuntimeError,
            "Expected all tensors to be on the same device",
        ),
        (
            "if val_set.captions:",
            "assert val_set.captions\nif val_set.captions:",
            "assert val_set.captions",
            AssertionError,
            "assert val_set.captions",
        ),
        (
            "val_x = val_set.tensor(",
            "val_x = val_set[val_set.labels.argsort()].tensor(",
            "val_x = val_set",
            ValueError,
            "a slice of 64 photographs holds no dog and no wild",
        ),
        (
            "assert train_set.size == val_set.size == size",
            "assert train_set.size == val_set.size == 32",
            "assert train_set.size == val_set.size == 32",
            AssertionError,
            "val_set.size == 32",
        ),
        (
            "return losses.mean().item()",
            "return losses.mean().numpy()",
            VAL_LOSS,
            TypeError,
            "can't convert cuda:0 device type tensor to numpy",
        ),
    ],
    ids=["forgotten .to", "captions", "class by class", "hard-coded size", "numpy"],
)
def test_a_planted_fault_is_found(
    right: str, wrong: str, cell: str, error: type[Exception], message: str, gpu_profile: Path
) -> None:
    sources = cells(gpu_profile / f"{PIXELS}.ipynb")
    assert sum(source.count(right) for source in sources) == 1
    faulty = [source.replace(right, wrong) for source in sources]
    with pytest.raises(error, match=message):
        execute(needed(faulty, cell), PIXELS)
