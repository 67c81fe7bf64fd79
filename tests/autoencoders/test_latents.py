"""The cache of latents: encoded once, resumed, repaired, and never confused with another's."""

import itertools
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.autoencoders import latents as module
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.latents import cache_latents, encodes_as_well_in_bf16, fingerprint, latent_space
from helpers.data import load_faces

ROOT = Path(__file__).parents[2]
CONFIG = KLConfig(width=8, multipliers=(1, 2), blocks=1, groups=4, latent_channels=3, patch=2, scale=1.7)


def autoencoder(seed: int = 0, config: KLConfig = CONFIG) -> KLAutoencoder:
    torch.manual_seed(seed)
    return KLAutoencoder(config).eval()


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return load_faces("toy-faces", "train", 16, limit=23, cache_dir=tmp_path_factory.mktemp("faces"), progress=False)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "PIXELS_PER_BATCH", 5 * 16**2)  # five images a batch: five batches


@pytest.fixture
def counted(monkeypatch):
    """Which batches are encoded."""
    encoded = []
    real = module._encode_images
    monkeypatch.setattr(module, "_encode_images", lambda a, f, part: encoded.append(part.start) or real(a, f, part))
    return encoded


def test_a_batch_is_the_autoencoders_output_mirrored_or_not(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "computes_bf16", lambda device_type: False)  # compared with fp32, below
    model = autoencoder()
    latents = cache_latents(model, faces, cache_dir=tmp_path, progress=False)
    chosen = torch.tensor([3, 22, 3])
    mirrored = torch.tensor([False, True, True])
    images = faces.tensor(chosen)
    images[mirrored] = images[mirrored].flip(-1)
    with torch.no_grad():
        expected = model.to_latents(images)
    expected = (expected - latents.mean[:, None, None]) / latents.std[:, None, None]
    torch.testing.assert_close(latents.batch(chosen, mirrored), expected, atol=5e-3, rtol=0)


def test_channels_are_normalised(faces, tmp_path):
    latents = cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    every = torch.arange(len(faces))
    both = torch.cat([latents.batch(every, torch.full((len(faces),), side)) for side in (False, True)])
    torch.testing.assert_close(both.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(both.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-3, rtol=0)


def test_the_second_time_nothing_is_encoded(faces, tmp_path, counted):
    first = cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert counted == [0, 5, 10, 15, 20]
    second = cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert len(counted) == 5 and np.array_equal(first.values, second.values) and torch.equal(first.mean, second.mean)


@pytest.mark.parametrize("batch", [0, 2, 4])
def test_a_flipped_byte_is_noticed_and_its_batch_alone_encoded(faces, tmp_path, counted, batch):
    whole = np.array(cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False).values)
    path = next(tmp_path.glob("*.bin"))
    data = bytearray(path.read_bytes())
    data[batch * 5 * whole[0].nbytes + 7] ^= 1
    path.write_bytes(data)
    counted.clear()
    with pytest.warns(UserWarning, match="damaged in 1 of 5 batches"):
        repaired = cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert counted == [5 * batch] and np.array_equal(repaired.values, whole)
    counted.clear()
    cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert not counted, "mended for good"


def test_a_shortened_file_is_completed(faces, tmp_path, counted):
    whole = np.array(cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False).values)
    path = next(tmp_path.glob("*.bin"))
    path.write_bytes(path.read_bytes()[:-9])
    counted.clear()
    with pytest.warns(UserWarning, match="damaged in 1 of 5"):
        assert np.array_equal(cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False).values, whole)
    assert counted == [20]


def test_killed_half_way_it_goes_on(faces, tmp_path, counted):
    """A real kill -9, in the middle of the third batch."""
    code = f"""
import os, signal, torch
from helpers.autoencoders import latents as module
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.data import load_faces
module.PIXELS_PER_BATCH = 5 * 16**2
real = module._encode_images
def slow(a, f, part):
    if part.start == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(a, f, part)
module._encode_images = slow
faces = load_faces("toy-faces", "train", 16, limit=23, cache_dir={str(tmp_path)!r}, progress=False)
torch.manual_seed(0)
model = KLAutoencoder(KLConfig(width=8, multipliers=(1, 2), blocks=1, groups=4, latent_channels=3, patch=2, scale=1.7))
module.cache_latents(model.eval(), faces, cache_dir={str(tmp_path)!r}, progress=False)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert counted == [10, 15, 20]
    fresh = cache_latents(autoencoder(), faces, cache_dir=tmp_path / "fresh", progress=False)
    assert np.array_equal(resumed.values, fresh.values) and torch.equal(resumed.mean, fresh.mean)


def test_a_torn_line_of_the_journal_counts_for_nothing(faces, tmp_path, counted):
    cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    journal = next(tmp_path.glob("*.jsonl"))
    journal.write_text(journal.read_text()[:-20])
    counted.clear()
    cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert counted == [20]
    counted.clear()
    cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert not counted


def others(faces):
    darker = replace(faces, images=faces.images // 2)
    return [
        ("other weights", autoencoder(1), faces),
        ("another scale", autoencoder(0, replace(CONFIG, scale=1.8)), faces),
        ("other images", autoencoder(), darker),
        ("another order", autoencoder(), faces[::-1]),
        ("fewer images", autoencoder(), faces[:20]),
    ]


@pytest.mark.parametrize("case", range(5))
def test_another_autoencoder_or_data_set_never_reuses_it(faces, tmp_path, counted, case):
    cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    name, model, images = others(faces)[case]
    counted.clear()
    cache_latents(model, images, cache_dir=tmp_path, progress=False)
    assert len(counted) == -(-len(images) // 5), name
    assert len(list(tmp_path.glob("*.bin"))) == 2, "the first one is still there"


def test_a_journal_of_something_else_is_not_believed(faces, tmp_path, counted):
    cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    journal = next(tmp_path.glob("*.jsonl"))
    first, rest = journal.read_text().split("\n", 1)
    header = json.loads(first)
    header["recipe"]["autoencoder"] = "another"
    journal.write_text(json.dumps(header) + "\n" + rest)
    counted.clear()
    cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert len(counted) == 5


def test_a_folder_that_cannot_be_written_keeps_latents_in_memory(faces, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.warns(UserWarning, match="stay in memory"):
        latents = cache_latents(autoencoder(), faces, cache_dir=blocked, progress=False)
    kept = cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert np.array_equal(latents.values, kept.values) and torch.equal(latents.std, kept.std)


def test_a_whole_cache_that_may_not_be_written_is_used(faces, tmp_path, counted, monkeypatch):
    cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    counted.clear()
    monkeypatch.setattr(module._LatentFile, "open_for_writing", lambda self: pytest.fail("opened for writing"))
    cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert not counted


def test_a_disk_that_fills_up_loses_nothing(faces, tmp_path, counted, monkeypatch):
    real = module._LatentFile.write_batch

    def full(file, i, encode_batch):
        if i == 3:
            raise OSError(28, "No space left on device")
        real(file, i, encode_batch)

    monkeypatch.setattr(module._LatentFile, "write_batch", full)
    monkeypatch.setattr(module.time, "process_time", itertools.count().__next__)
    with pytest.warns(UserWarning, match="No space left on device"):
        latents = cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert counted == [0, 5, 10, 15, 20], "nothing twice"
    assert latents.core_seconds == 3 + 1, "a second for each batch that was kept, and one for the others"
    monkeypatch.setattr(module._LatentFile, "write_batch", real)
    fresh = cache_latents(autoencoder(), faces, cache_dir=tmp_path / "fresh", progress=False)
    assert np.array_equal(latents.values, np.array(fresh.values))


def test_a_disk_without_room_for_the_journal_gets_no_litter(faces, tmp_path, monkeypatch):
    def full(path, text):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    for _ in range(2):
        with pytest.warns(UserWarning, match="No space left on device"):
            cache_latents(autoencoder(), faces, cache_dir=tmp_path, progress=False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_two_trainings_at_once_encode_once(faces, tmp_path, counted):
    """The second waits for the first and reads its latents."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(cache_latents, autoencoder(), faces, cache_dir=tmp_path, progress=False) for _ in range(2)]
        first, second = (run.result() for run in runs)
    assert sorted(counted) == [0, 5, 10, 15, 20] and np.array_equal(first.values, second.values)


def test_latents_that_overflow_are_refused(faces, tmp_path):
    with pytest.raises(ValueError, match="overflow float16"):
        cache_latents(autoencoder(0, replace(CONFIG, scale=1e9)), faces, cache_dir=tmp_path, progress=False)


def test_the_fingerprint_knows_weights_and_scale():
    digest = fingerprint(autoencoder())
    assert digest == fingerprint(autoencoder())
    assert digest != fingerprint(autoencoder(1)) and digest != fingerprint(autoencoder(0, replace(CONFIG, scale=1.8)))


def test_a_distilled_autoencoder_belongs_to_its_teachers_latent_space():
    teacher = autoencoder()
    student = autoencoder(1, replace(CONFIG, latents_of=fingerprint(teacher)))
    assert latent_space(student) == latent_space(teacher) == fingerprint(teacher)
    assert latent_space(autoencoder(1)) != latent_space(teacher)


def test_bf16_encodes_only_where_the_machine_has_it_and_it_is_as_good(faces, monkeypatch):
    model = autoencoder()
    images = faces.tensor(slice(0, 5))
    monkeypatch.setattr(module.time, "perf_counter", lambda: pytest.fail("a clock would answer differently each time"))
    monkeypatch.setattr(module, "computes_bf16", lambda device_type: True)
    assert encodes_as_well_in_bf16(model, images)
    decibels = iter([30.0, 29.9])
    monkeypatch.setattr(module, "psnr", lambda *_: next(decibels))
    assert not encodes_as_well_in_bf16(model, images), "worse by a tenth of a decibel"
    monkeypatch.setattr(module, "computes_bf16", lambda device_type: False)
    assert not encodes_as_well_in_bf16(model, images), "imitated"


def test_latents_of_each_precision_have_a_file_of_their_own_and_whole_ones_are_kept(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "encodes_as_well_in_bf16", lambda *_: True)
    coarse = cache_latents(autoencoder(), faces, cache_dir=tmp_path / "new", progress=False)
    monkeypatch.setattr(module, "encodes_as_well_in_bf16", lambda *_: False)
    fine = cache_latents(autoencoder(), faces, cache_dir=tmp_path / "new", progress=False)
    assert len(list((tmp_path / "new").glob("*.bin"))) == 2
    assert not np.array_equal(coarse.values, fine.values)
    np.testing.assert_allclose(coarse.values, fine.values, atol=0.1)
    monkeypatch.setattr(module, "encodes_as_well_in_bf16", lambda *_: True)
    reused = cache_latents(autoencoder(), faces, cache_dir=tmp_path / "new", progress=False)
    assert np.array_equal(reused.values, fine.values), "fp32 latents that are there are used"
