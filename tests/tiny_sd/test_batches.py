"""Which faces, conditions and noise a training step sees."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.tiny_sd.batches import Batches
from helpers.tiny_sd.unet import NO_CLASS
from helpers.training import step_generator


def test_conditions_are_dropped_example_by_example(faces):
    """The predecessor dropped the labels of a whole batch at once."""
    batches = Batches(faces, 2000)
    indices = batches.sample_indices(step_generator(0, 0))
    labels, captions = batches.sample_conditions(indices, step_generator(0, 1))
    no_class = labels == NO_CLASS
    no_caption = captions.sum(1) == 0
    assert no_class.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert no_caption.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (no_class & no_caption).float().mean().item() == pytest.approx(0.1, abs=0.03)
    truth = torch.from_numpy(faces.labels)[indices]
    assert torch.equal(labels[~no_class], truth[~no_class])


def test_every_batch_of_many_holds_a_mixture(faces):
    batches = Batches(faces, 64)
    shares = []
    for step in range(50):
        generator = step_generator(0, step)
        labels, _ = batches.sample_conditions(batches.sample_indices(generator), generator)
        shares.append((labels == NO_CLASS).float().mean().item())
    assert 0 < np.std(shares) < 0.12, "dropping whole batches would give 0 or 1, with a deviation of 0.4"


def test_without_captions_only_classes_are_dropped(faces):
    batches = Batches(replace(faces, attributes=None, captions=None), 1000)
    labels, captions = batches.sample_conditions(batches.sample_indices(step_generator(0, 0)), step_generator(0, 1))
    assert captions is None and (labels == NO_CLASS).float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_captions_belong_to_their_faces(faces):
    from helpers.data.captions import tokenize

    batches = Batches(faces, 8)
    assert torch.equal(batches.captions[:, 0], tokenize(faces.captions))
    assert all(batches.captions.any(2).all(1)), "even the shortest wording names the species"


def test_classes_are_equally_frequent_however_many_images_they_have(faces):
    few = faces[np.concatenate([np.flatnonzero(faces.labels == 0), np.flatnonzero(faces.labels == 1)[:2]])]
    chosen = Batches(few, 3000).sample_indices(step_generator(0, 0))
    assert (few.labels[chosen] == 1).mean() == pytest.approx(0.5, abs=0.04)
    assert len(chosen.unique()) == len(few)


def test_validation_images_are_refused(faces):
    """The predecessor's VQ-VAE was trained on the validation images."""
    with pytest.raises(ValueError, match="must not see the 'val' images"):
        Batches(replace(faces, split="val"), 8)


def test_shares_of_a_batch_are_the_batch(faces, model):
    model.eval()
    whole, _ = Batches(faces, 8).losses(model, step_generator(0, 3))
    halves = []
    for i in range(2):
        process = SimpleNamespace(process_index=i, num_processes=2)
        halves.append(Batches(faces, 8, accelerator=process).losses(model, step_generator(0, 3))[0])
    torch.testing.assert_close(torch.stack(halves, dim=1).flatten(), whole, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="shared by 3 processes"):
        Batches(faces, 8, accelerator=SimpleNamespace(process_index=0, num_processes=3))


def test_another_network_than_a_tiny_sd_is_refused(faces):
    with pytest.raises(TypeError, match="train a TinySD, got Linear"):
        Batches(faces, 8).losses(torch.nn.Linear(1, 1), step_generator(0, 0))


def test_details_tell_the_loss_by_noise_level(faces, model):
    values, details = Batches(faces, 8).losses(model, step_generator(0, 0))
    torch.testing.assert_close(details.losses, values.detach())
    assert details.times.shape == (8,) and 0 < details.times.min() and details.times.max() < 1
