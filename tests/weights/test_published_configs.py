"""Configuration that comes with weights is followed, or refused with what it says, where, and what to do."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.paligemma.reference import SMALL2, reference_config, write_folder
from benchmarks.paligemma.reference import reference as paligemma_reference
from helpers.autoencoders.load import load_autoencoder
from helpers.sd1.export import to_diffusers
from helpers.sd1.schedule import Schedule, read_schedule, zero_terminal_snr
from helpers.vlm import checkpoint as vlm_checkpoint

SCHEDULER = "scheduler/scheduler_config.json"


def change_config(path: Path, **changes: object) -> None:
    """Overwrite entries of a JSON file."""
    entries = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(entries | changes))


# --- what is followed ------------------------------------------------------------------------------------------------


@pytest.mark.fault("configuration")
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [4, 7, 30])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_timesteps_and_noise_are_those_of_diffusers(tmp_path, spacing, steps, zero_snr):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing=spacing,
        rescale_betas_zero_snr=zero_snr,
        prediction_type="v_prediction",
    )
    theirs.save_pretrained(tmp_path)
    schedule = read_schedule(tmp_path / "scheduler_config.json")
    theirs.set_timesteps(steps)
    times = schedule.times(steps)
    assert (times[:-1] * 1000 - 1).round().tolist() == theirs.timesteps.tolist()
    assert times[-1] == 0 and (times.diff() < 0).all()
    torch.testing.assert_close(schedule.path.alphas_bar.float(), theirs.alphas_cumprod, atol=2e-6, rtol=0)
    assert schedule.prediction == "v"


@pytest.mark.fault("configuration")
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_betas_are_those_of_diffusers(tmp_path, betas):
    from diffusers import PNDMScheduler

    theirs = PNDMScheduler(beta_start=0.001, beta_end=0.01, beta_schedule=betas, steps_offset=1)
    theirs.save_pretrained(tmp_path)
    ours = read_schedule(tmp_path / "scheduler_config.json")
    torch.testing.assert_close(ours.path.betas.float(), theirs.betas, atol=1e-6, rtol=1e-4)
    assert not ours.ends_clean, "PNDM's default, unlike DDIM's"


@pytest.mark.fault("configuration")
def test_zero_terminal_snr_ends_in_noise():
    betas = zero_terminal_snr(Schedule().path.betas)
    assert torch.cumprod(1 - betas, 0)[-1] < 1e-7 and ((betas > 0) & (betas < 1)).all()


@pytest.mark.fault("configuration")
@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "dpm_solver_pp_2m", "heun"])
def test_every_sampler_runs_on_a_schedule_of_zero_terminal_snr(sd1, sd1_folder, sampler):
    entries = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    change_config(sd1_folder / SCHEDULER, **entries)
    model = sd1.load(sd1_folder)
    image = model.generate("a cat", steps=3, sampler=sampler, progress=False)
    assert image.isfinite().all()


@pytest.mark.fault("configuration")
def test_a_schedule_is_exported_as_it_was_read(sd1, sd1_folder, tmp_path):
    entries = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    change_config(sd1_folder / SCHEDULER, **entries)
    model = sd1.load(sd1_folder)
    to_diffusers(model, tmp_path / "export")
    schedule = read_schedule(tmp_path / "export" / SCHEDULER)
    assert torch.equal(schedule.times(5), model.times(5)) and schedule.prediction == "v"
    torch.testing.assert_close(schedule.path.betas, model.path.betas)


@pytest.mark.fault("configuration")
def test_activation_and_heads_of_the_text_encoder_are_followed(sd1, sd1_folder):
    change_config(sd1_folder / "text_encoder" / "config.json", hidden_act="gelu", num_attention_heads=2)
    config = sd1.load(sd1_folder).text.config
    assert config.activation == "gelu" and config.heads == 2


@pytest.mark.fault("configuration")
def test_a_single_file_marked_as_v_prediction_is_one(sd1, tmp_path):
    tensors = load_file(sd1.single_file)
    save_file(tensors | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, tmp_path / "v.safetensors")
    model = sd1.load(tmp_path / "v.safetensors")
    assert model.prediction == "v" and model.path.alphas_bar[-1] < 1e-6 and model.times(4)[0] == 1


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.fault("configuration", refused=True)
@pytest.mark.parametrize(
    ("file", "entry", "value", "message"),
    [
        (SCHEDULER, "beta_schedule", "sigmoid", "says beta_schedule 'sigmoid'.*'scaled_linear'"),
        (SCHEDULER, "trained_betas", [0.1, 0.2], "trained_betas should give 1000 betas"),
        (SCHEDULER, "beta_end", "large", "says beta_end 'large', which should be a number above 0"),
        (SCHEDULER, "beta_start", 0, "says beta_start 0, which should be a number above 0"),
        (SCHEDULER, "num_train_timesteps", 500, "says num_train_timesteps 500.*computes with 1000"),
        (SCHEDULER, "prediction_type", "sample", "says prediction_type 'sample'; the course knows epsilon"),
        (SCHEDULER, "timestep_spacing", "random", "says timestep_spacing 'random'.*'trailing'"),
        (SCHEDULER, "timestep_spacing", "linspace", "the last step would lead nowhere. Set timestep_spacing"),
        (SCHEDULER, "rescale_betas_zero_snr", True, "rescale_betas_zero_snr with prediction_type 'epsilon'"),
        (SCHEDULER, "_class_name", "LCMScheduler", "says _class_name 'LCMScheduler'"),
        ("text_encoder/config.json", "hidden_act", "relu", "hidden_act 'relu'.*'quick_gelu' or 'gelu'"),
        ("text_encoder/config.json", "num_attention_heads", 5, "num_attention_heads 5.*share 24 channels evenly"),
        ("text_encoder/config.json", "layer_norm_eps", 1e-3, "layer_norm_eps 0.001.*1e-05"),
        ("vae/config.json", "latents_mean", [0.0] * 4, r"latents_mean \[0.0.*computes with None"),
        ("vae/config.json", "latents_std", [1.0] * 4, r"latents_std \[1.0"),
        ("vae/config.json", "scaling_factor", float("nan"), "scaling_factor nan, which should be a number above 0"),
        ("vae/config.json", "scaling_factor", -1, "scaling_factor -1, which should be a number above 0"),
        ("vae/config.json", "act_fn", "mish", "act_fn 'mish'.*'silu'"),
        ("unet/config.json", "act_fn", "gelu", "act_fn 'gelu'.*'silu'"),
        ("unet/config.json", "norm_eps", 1e-6, "norm_eps 1e-06.*1e-05"),
        ("unet/config.json", "flip_sin_to_cos", False, "flip_sin_to_cos False"),
        ("unet/config.json", "attention_head_dim", [4, 8, 8, 8], "as many heads at every resolution"),
        ("unet/config.json", "norm_num_groups", 7, "norm_num_groups 7"),
    ],
)
def test_an_entry_of_sd1_that_is_not_followed_is_refused(sd1, sd1_folder, file, entry, value, message):
    change_config(sd1_folder / file, **{entry: value})
    with pytest.raises(ValueError, match=message) as refusal:
        sd1.load(sd1_folder)
    assert str(sd1_folder / file) in str(refusal.value), "it says where"


@pytest.mark.fault("configuration", refused=True)
@pytest.mark.parametrize("entry", ["use_karras_sigmas", "thresholding", "clip_sample"])
def test_what_only_one_sampler_of_diffusers_does_is_reported(sd1, sd1_folder, entry):
    change_config(sd1_folder / SCHEDULER, **{entry: True})
    with pytest.warns(UserWarning, match=f"scheduler_config.json is not followed in: {entry} True"):
        sd1.load(sd1_folder)


@pytest.mark.fault("configuration", refused=True)
@pytest.mark.parametrize(
    ("file", "entry", "value", "message"),
    [
        (SCHEDULER, "use_dynamic_shifting", True, "use_dynamic_shifting True.*False"),
        (SCHEDULER, "shift", 0, "shift 0, which should be a number above 0"),
        (SCHEDULER, "shift", "three", "shift 'three', which should be a number"),
        (SCHEDULER, "shift_terminal", 0.02, "shift_terminal 0.02"),
        (SCHEDULER, "_class_name", "DDIMScheduler", "_class_name 'DDIMScheduler'.*rectified flow"),
        ("text_encoder_2/config.json", "hidden_act", "silu", "hidden_act 'silu'"),
        ("text_encoder_3/config.json", "feed_forward_proj", "relu", "feed_forward_proj 'relu'.*'gated-gelu'"),
        ("text_encoder_3/config.json", "layer_norm_epsilon", "x", "layer_norm_epsilon 'x', which should be a number"),
        ("transformer/config.json", "qk_norm", "layer_norm", "qk_norm 'layer_norm'.*'rms_norm'"),
        ("transformer/config.json", "num_attention_heads", 3, "num_attention_heads 3.*share 128 channels"),
        ("vae/config.json", "shift_factor", "x", "shift_factor 'x', which should be a number"),
    ],
)
def test_an_entry_of_sd3_that_is_not_followed_is_refused(sd3, sd3_folder, file, entry, value, message):
    change_config(sd3_folder / file, **{entry: value})
    with pytest.raises(ValueError, match=message) as refusal:
        sd3.load(sd3_folder)
    assert str(sd3_folder / file) in str(refusal.value), "it says where"


@pytest.mark.fault("configuration")
@pytest.mark.parametrize("shift", [1.0, 6.0])
def test_the_shift_of_sd3_is_followed(sd3, sd3_folder, shift):
    change_config(sd3_folder / SCHEDULER, shift=shift)
    assert sd3.load(sd3_folder, t5=False).config.shift == shift


@pytest.mark.fault("configuration")
def test_the_epsilon_of_t5_is_followed(sd3, sd3_folder):
    from transformers import T5EncoderModel

    change_config(sd3_folder / "text_encoder_3/config.json", layer_norm_epsilon=0.1)
    theirs = T5EncoderModel.from_pretrained(sd3_folder / "text_encoder_3").eval()
    ours = sd3.load(sd3_folder).encoders.t5
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.fault("configuration", refused=True)
@pytest.mark.parametrize(
    ("entry", "value"),
    [("latents_mean", [0.0] * 4), ("act_fn", "relu"), ("scaling_factor", 0)],
)
def test_an_autoencoder_alone_is_checked_as_well(sd1_folder, entry, value):
    change_config(sd1_folder / "vae" / "config.json", **{entry: value})
    with pytest.raises(ValueError, match=f"config.json says {entry}"):
        load_autoencoder(sd1_folder / "vae")


@pytest.mark.fault("configuration", refused=True)
def test_a_tiny_autoencoder_with_a_scale_of_its_own_is_refused(tmp_path):
    from diffusers import AutoencoderTiny

    AutoencoderTiny(scaling_factor=2.0).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"says scaling_factor 2.0, and the course computes with 1.0"):
        load_autoencoder(tmp_path)


@pytest.fixture(scope="module")
def paligemma(tmp_path_factory) -> Path:
    return write_folder(paligemma_reference(), tmp_path_factory.mktemp("paligemma"), 2025)


@pytest.mark.fault("configuration", refused=True)
@pytest.mark.parametrize(
    ("section", "entry", "value", "message"),
    [
        ("vision_config", "hidden_act", "relu", "hidden_act 'relu'.*'gelu_pytorch_tanh'"),
        ("vision_config", "layer_norm_eps", 1e-3, "layer_norm_eps 0.001"),
        ("vision_config", "num_attention_heads", 5, "num_attention_heads 5"),
        ("text_config", "hidden_activation", "relu", "hidden_activation 'relu'"),
        ("text_config", "rms_norm_eps", 0, "rms_norm_eps 0, which should be a number above 0"),
        ("text_config", "rope_parameters", {"rope_type": "yarn"}, "rope_type 'yarn'.*'default'"),
    ],
)
def test_an_entry_of_paligemma_that_is_not_followed_is_refused(paligemma, tmp_path, section, entry, value, message):
    config = json.loads((paligemma / "config.json").read_text())
    config[section] = config[section] | {entry: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        vlm_checkpoint.config_of(tmp_path)


@pytest.mark.fault("configuration", refused=True)
@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("query_pre_attn_scalar", 0, "query_pre_attn_scalar 0, which should be a number above 0"),
        ("attn_logit_softcapping", "50", "attn_logit_softcapping '50', which should be a number"),
        ("final_logit_softcapping", -30.0, "final_logit_softcapping -30.0, which should be a number above 0"),
        ("sliding_window", None, "sliding_window None, .*a whole number of tokens"),
        (
            "layer_types",
            ["full_attention"] * 4,
            "layer_types .*'full_attention'.*'sliding_attention', 'full_attention'",
        ),
        ("hidden_activation", "relu", "hidden_activation 'relu'"),
    ],
)
def test_an_entry_of_paligemma_2_that_is_not_followed_is_refused(tmp_path, entry, value, message):
    config = reference_config(SMALL2).to_dict()
    config["text_config"][entry] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        vlm_checkpoint.config_of(tmp_path)


@pytest.mark.fault("configuration", refused=True)
@pytest.mark.parametrize(("entry", "value"), [("image_mean", [0.485, 0.456, 0.406]), ("resample", 0)])
def test_other_images_than_the_course_prepares_are_refused(paligemma, tmp_path, entry, value):
    (tmp_path / "config.json").write_text((paligemma / "config.json").read_text())
    change_config(tmp_path / "preprocessor_config.json", **{entry: value})
    with pytest.raises(ValueError, match=f"preprocessor_config.json says {entry}"):
        vlm_checkpoint.config_of(tmp_path)


@pytest.mark.fault("configuration")
def test_the_default_timesteps_are_the_published_ones():
    assert (Schedule().times(4) * 1000 - 1).round().tolist() == [751, 501, 251, 1, 0]
