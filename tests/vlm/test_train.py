"""The commands that train the mask autoencoder and the tiny PaliGemma, a few steps each, and fine-tuning."""

import pytest
import torch

from helpers.data import load_faces
from helpers.vlm.boxes import Box
from helpers.vlm.pipeline import PaliGemma
from helpers.vlm.train import draw_boxes
from helpers.vlm.train import main as train
from helpers.vlm.train_masks import main as train_masks
from helpers.weights import read_metadata

QUICK = ["--batch-size", "4", "--faces", "40", "--log-every", "1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Weights from the commands: mask autoencoder, a model from scratch, the same fine-tuned."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_HOME", str(folder / "home"))
        files = {name: str(folder / f"{name}.safetensors") for name in ("masks", "first", "second")}
        plain = [*QUICK, "--steps", "3", "--sample-every", "0"]
        assert train_masks([*plain, "--export", files["masks"]]) == 0
        assert train([*plain, "--masks", files["masks"], "--export", files["first"]]) == 0
        assert (
            train(
                [
                    *plain[:-4],
                    "--steps",
                    "1",
                    "--sample-every",
                    "1",
                    "--learning-rate",
                    "1e-6",
                    "--start",
                    files["first"],
                    "--masks",
                    files["masks"],
                    "--export",
                    files["second"],
                    "--out",
                    str(folder / "second"),
                ]
            )
            == 0
        )
    assert (folder / "second" / "samples-000001.png").stat().st_size > 1000
    return files


def test_the_trained_model_answers(files):
    assistant = PaliGemma.from_weights(files["first"], masks=files["masks"])
    face = load_faces("toy-faces", "val", 64, limit=1, progress=False).tensor()[0]
    assert len(assistant.generate([face] * 2, ["caption en", "answer en is this a cat?"], max_new_tokens=4)) == 2


def test_fine_tuning_starts_where_the_weights_are(files):
    first, second = (PaliGemma.from_weights(files[name], masks=None) for name in ("first", "second"))
    assert first.tokenizer.to_json() == second.tokenizer.to_json()
    for name, weight in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], weight, atol=1e-3, rtol=1e-2)


def test_auxiliary_heads_are_not_saved(files):
    names = set(PaliGemma.from_weights(files["first"], masks=None).model.state_dict())
    assert not any(name.startswith(("whole", "corner", "weights")) for name in names)
    assert "--start first.safetensors" in read_metadata(files["second"])["command"]


def test_lines_are_drawn_on_the_sides_of_a_box():
    image = draw_boxes(-torch.ones(3, 8, 8), [Box(0.25, 0.5, 0.75, 1.0)])
    assert image[0, 4, 2:7].tolist() == [1] * 5 and image[0, 7, 2:7].tolist() == [1] * 5
    assert image[0, :4].max() == -1 and image[0, 5, 3].item() == -1
