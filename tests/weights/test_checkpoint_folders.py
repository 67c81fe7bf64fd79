"""Folders in diffusers' layout: what their configurations say is followed or reported, and their files are found."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from helpers.autoencoders.load import load_autoencoder

ZERO_SNR = {"rescale_betas_zero_snr": True}
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
TRAILING = {"timestep_spacing": "trailing"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def change_config(path: Path, **changes: object) -> None:
    """Overwrite entries of a JSON file."""
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | changes))


def follows_the_scheduler(model, folder: Path) -> bool:
    """Whether the model has the timesteps and the final noise level of diffusers' scheduler."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(4)
    timesteps = (model.times(4)[:-1] * scheduler.config.num_train_timesteps - 1).round()
    final_alpha, _ = model.path.alpha_sigma(torch.tensor(1.0))
    same_timesteps = timesteps.tolist() == scheduler.timesteps.tolist()
    return same_timesteps and final_alpha.item() ** 2 == pytest.approx(scheduler.alphas_cumprod[-1].item(), abs=1e-6)


@pytest.mark.fault("checkpoints")
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="as published"),
        pytest.param(ZERO_SNR, id="zero terminal SNR"),
        pytest.param(LINEAR, id="linear betas"),
        pytest.param({"steps_offset": 0}, id="no offset"),
        pytest.param(TRAILING, id="trailing timesteps"),
        pytest.param(
            {**ZERO_SNR, **TRAILING, "prediction_type": "v_prediction"},
            id="v-prediction with zero terminal SNR",
        ),
    ],
)
def test_scheduler_settings_are_followed_or_reported(sd1, sd1_folder, attempt, changes):
    change_config(sd1_folder / "scheduler" / "scheduler_config.json", **changes)
    model, message = attempt(lambda: sd1.load(sd1_folder))
    followed = model is not None and follows_the_scheduler(model, sd1_folder)
    reported = any(name in message for name in changes)
    assert followed or reported, f"ignored: {changes}; reported: {message or 'nothing'}"


@pytest.mark.fault("checkpoints")
def test_scaling_factor_of_sd1_is_followed_or_refused(sd1, sd1_folder, attempt):
    change_config(sd1_folder / "vae" / "config.json", scaling_factor=0.13025)  # SDXL's autoencoder has the same shapes
    model, message = attempt(lambda: sd1.load(sd1_folder))
    followed = model is not None and model.autoencoder.config.scale == pytest.approx(0.13025)
    refused = model is None and "0.13025" in message and "0.18215" in message
    assert followed or refused, f"the scaling factor is {model and model.autoencoder.config.scale}; {message}"


@pytest.mark.fault("checkpoints")
def test_scaling_factor_of_an_autoencoder_alone_is_followed(sd1_folder):
    change_config(sd1_folder / "vae" / "config.json", scaling_factor=0.13025)
    assert load_autoencoder(sd1_folder / "vae").config.scale == pytest.approx(0.13025)


@pytest.mark.fault("checkpoints")
@pytest.mark.parametrize(
    ("entry", "attribute", "published"),
    [
        pytest.param("scaling_factor", "scale", 1.5305),
        pytest.param("shift_factor", "shift", 0.0609),
    ],
)
def test_scale_and_shift_of_sd3_are_followed_or_refused(sd3, sd3_folder, attempt, entry, attribute, published):
    change_config(sd3_folder / "vae" / "config.json", **{entry: 0.375})
    model, message = attempt(lambda: sd3.load(sd3_folder))
    followed = model is not None and getattr(model.autoencoder.config, attribute) == pytest.approx(0.375)
    refused = model is None and "0.375" in message and str(published) in message
    assert followed or refused, f"the configuration is {model and model.autoencoder.config}; {message}"


def same_weights(model, other) -> bool:
    tensors = other.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())


@pytest.mark.fault("checkpoints")
def test_shards_of_sd1_are_read(sd1, sd1_folder):
    (sd1_folder / "unet" / WEIGHTS).unlink()
    sd1.pipeline.unet.save_pretrained(sd1_folder / "unet", max_shard_size="1MB")
    assert (sd1_folder / "unet" / f"{WEIGHTS}.index.json").is_file()
    assert same_weights(sd1.load(sd1_folder), sd1.load(sd1.folder))


@pytest.mark.fault("checkpoints")
@pytest.mark.parametrize(
    "system",
    [
        "sd1",
        "sd3",
    ],
)
def test_whole_file_beside_a_leftover_index_is_read(system, request):
    tiny = request.getfixturevalue(system)
    folder = request.getfixturevalue(f"{system}_folder")
    network = folder / {"sd1": "unet", "sd3": "transformer"}[system]
    index = {"weight_map": {"conv_in.weight": WEIGHTS.replace(".", "-00001-of-00002.", 1)}}
    (network / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert same_weights(tiny.load(folder), tiny.load(tiny.folder))


COMMIT = "a" * 40
BLOB = "b" * 40
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture
def half_precision_cache(sd1, tmp_path, monkeypatch) -> Path:
    """The hub's cache of a repository of which only the half-precision files were downloaded; there is no network."""
    import huggingface_hub

    cache = tmp_path / "hub"
    repository = cache / "models--some--sd15"
    snapshot = Path(shutil.copytree(sd1.folder, repository / "snapshots" / COMMIT))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for part, stem in STEMS.items():
        (snapshot / part / f"{stem}.safetensors").rename(snapshot / part / f"{stem}.fp16.safetensors")
    download = huggingface_hub.snapshot_download

    def from_cache(repo_id, **options):
        return download(repo_id, **options, cache_dir=cache, local_files_only=True)

    monkeypatch.setattr("huggingface_hub.snapshot_download", from_cache)
    return repository


@pytest.fixture
def file_list(half_precision_cache) -> None:
    """The list of all files of the repository, which huggingface_hub keeps beside its cache from 1.22 on."""
    name = "huggingface_hub._tree_cache"
    tree_cache = pytest.importorskip(name, reason="this huggingface_hub keeps no list of a repository's files")
    snapshot = half_precision_cache / "snapshots" / COMMIT
    files = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()]
    files += [f"{part}/{stem}.safetensors" for part, stem in STEMS.items()]
    entries = {path: tree_cache.TreeCacheEntry(size=1, blob_id=BLOB) for path in files}
    tree_cache.write_tree_cache(str(half_precision_cache), COMMIT, entries)


@pytest.mark.fault("checkpoints")
@pytest.mark.usefixtures("half_precision_cache")
def test_half_precision_files_are_found_in_the_cache(sd1):
    sd1.load("some/sd15", tokenizer=None)


@pytest.mark.fault("checkpoints")
@pytest.mark.usefixtures("half_precision_cache", "file_list")
def test_variant_is_found_in_a_cache_with_a_file_list(sd1):
    sd1.load("some/sd15", tokenizer=None, variant="fp16")


@pytest.mark.fault("checkpoints")
@pytest.mark.usefixtures("half_precision_cache", "file_list")
def test_half_precision_files_are_found_in_a_cache_with_a_file_list(sd1):
    sd1.load("some/sd15", tokenizer=None)
