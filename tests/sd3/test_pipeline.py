"""What `generate` promises, on the small system with random weights."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.sd3.reference import stability_tensors
from helpers.sd3 import checkpoint
from helpers.sd3.checkpoint import PREFIXES
from helpers.sd3.mmdit import MMDiT, MMDiTConfig, positions
from helpers.sd3.pipeline import StableDiffusion3
from helpers.sd3.request import SkipLayers
from helpers.weights import folders

QUICK = {"steps": 3, "progress": False}


def test_an_image_does_not_depend_on_its_neighbours(sd3):
    alone = sd3.ours.generate("a cat", seed=6, **QUICK)
    beside = sd3.ours.generate("a cat", seed=5, num_images=2, **QUICK)
    torch.testing.assert_close(beside[1:], alone, atol=1e-4, rtol=0)


def test_sampling_ends_where_generate_does(sd3):
    options = {"skip_layers": [2], "skip_until": 1, "prompt_3": "a dog"}
    *_, last = sd3.ours.sample_steps("a cat", steps=3, **options)
    torch.testing.assert_close(sd3.ours.decode(last.x), sd3.ours.generate("a cat", **options, **QUICK))
    options.pop("skip_layers")
    assert not torch.allclose(sd3.ours.decode(last.x), sd3.ours.generate("a cat", **options, **QUICK), atol=1e-3)


def test_every_prompt_counts(sd3):
    plain = sd3.ours.generate("a cat", **QUICK)
    for options in ({"negative_prompt": "a dog"}, {"prompt_2": "a dog"}, {"prompt_3": "a dog"}, {"use_t5": False}):
        assert not torch.allclose(sd3.ours.generate("a cat", **options, **QUICK), plain), options
    assert torch.equal(sd3.ours.generate("a cat", prompt_2="a cat", prompt_3="a cat", **QUICK), plain)


@pytest.mark.parametrize("sampler", ["euler", "ddim", "heun", "dpm_solver_pp_2m", "euler_ancestral"])
@pytest.mark.parametrize(("height", "width"), [(64, 80), (112, 48)])
def test_any_sampler_and_any_multiple_of_sixteen(sd3, sampler, height, width):
    images = sd3.ours.generate("a cat", height=height, width=width, sampler=sampler, **QUICK)
    assert images.shape == (1, 3, height, width) and images.isfinite().all()


def test_image_to_image_and_inpainting(sd3):
    image = 2 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) - 1
    mask = torch.zeros(64, 64)
    mask[16:48, 32:] = 1
    kept = sd3.ours.generate("a cat", init_image=image, strength=0, **QUICK)
    reconstruction = sd3.ours.autoencoder.to_images(sd3.ours.autoencoder.to_latents(image[None]))
    torch.testing.assert_close(kept, reconstruction.detach(), atol=1e-5, rtol=0)
    painted = sd3.ours.generate("a cat", init_image=image, mask_image=mask, strength=1.0, **QUICK)[0]
    assert torch.equal(painted[:, mask == 0], image[:, mask == 0])
    assert (painted - image)[:, mask == 1].abs().mean() > 0.05


def test_both_references_shift_the_last_time_twice(sd3):
    twice = sd3.ours.times(28)
    torch.testing.assert_close(twice[-4:], torch.tensor([0.1998, 0.1109, 0.00893, 0.0]), atol=5e-5, rtol=0)


def test_cpu_offload_gives_the_same_image(sd3):
    plain = sd3.ours.generate("a cat", **QUICK)
    offloaded = StableDiffusion3.from_checkpoint(sd3.layouts["diffusers"], config=sd3.config)
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    images = offloaded.enable_cpu_offload(gpu).generate("a cat", **QUICK)
    torch.testing.assert_close(images, plain, atol=1e-2 if gpu == "cuda" else 1e-5, rtol=0)
    assert {p.device.type for p in offloaded.encoders.parameters()} == {"cpu"}


@pytest.mark.parametrize("image", [None, torch.zeros(3, 64, 64)], ids=["text to image", "image to image"])
def test_only_the_network_on_the_gpu_computes(sd3, image):
    """Seen on any machine: the network that computes was the last to be moved to the GPU."""
    model = StableDiffusion3.from_checkpoint(sd3.layouts["diffusers"], config=sd3.config)
    moved = []
    move = model.move_to_gpu

    def recorded(module):
        moved.append(module)
        move(module)

    model.move_to_gpu = recorded
    owners = {
        model.encoders: ("clip_l", "clip_g", "t5"),
        model.transformer: (),
        model.autoencoder: ("encoder", "decoder"),
    }
    for owner, parts in owners.items():
        for part in [getattr(owner, name) for name in parts] or [owner]:
            part.register_forward_pre_hook(lambda *_, owner=owner: _is_last(moved, owner))
    model.enable_cpu_offload("cpu").generate("a cat", init_image=image, **QUICK)
    assert set(moved) == set(owners)


def _is_last(moved, owner):
    assert moved[-1] is owner


def test_skip_layer_guidance_acts_between_its_times(sd3):
    """At every time of the interval, also at those between the steps, which a finer sampler visits."""
    condition = sd3.ours.encoders(["a cat"])
    negative = sd3.ours.encoders([""])
    skip = SkipLayers([1], 2.8, (0.4, 0.8))
    plain = sd3.ours.denoiser(condition, negative, 4.0)
    skipping = sd3.ours.denoiser(condition, negative, 4.0, skip)
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        acts = {t: not torch.equal(plain(x, t).x0, skipping(x, t).x0) for t in (0.9, 0.8, 0.512345678, 0.4, 0.3)}
    assert acts == {0.9: False, 0.8: True, 0.512345678: True, 0.4: True, 0.3: False}


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_skip_layer_guidance_acts_in_the_steps_of_its_window(sd3, sampler, monkeypatch):
    times = set()
    forward = type(sd3.ours.transformer).forward

    def recorded(self, x, t, *condition, skip_layers=()):
        if skip_layers:
            times.add(t[0].item())
        return forward(self, x, t, *condition, skip_layers=skip_layers)

    monkeypatch.setattr(type(sd3.ours.transformer), "forward", recorded)
    sd3.ours.generate("a cat", steps=10, skip_layers=[1], skip_until=0.45, sampler=sampler, progress=False)
    assert times == set(sd3.ours.times(10)[1:5].tolist())


def test_prompts_that_are_the_same_are_encoded_once(sd3):
    batches = []
    handle = sd3.ours.encoders.t5.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    images = sd3.ours.generate(["a cat", "a dog"], num_images=3, seed=4, **QUICK)
    handle.remove()
    assert batches == [2, 1]  # two prompts, one empty negative one
    torch.testing.assert_close(images[4:5], sd3.ours.generate("a dog", seed=8, **QUICK), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 6e-2), (torch.float16, 1e-2)])
def test_half_precision_is_near_full_precision(either, dtype, close):
    half = StableDiffusion3.from_checkpoint(either.layouts["diffusers"], config=either.config, dtype=dtype)
    images = [model.generate("a cat", guidance_scale=2.0, **QUICK) for model in (half, either.ours)]
    assert (images[0] - images[1]).square().mean().sqrt() < close * images[1].std()


def test_t5_does_not_overflow_in_float16(sd3):
    """In XXL the sum of the layers leaves float16's range; transformers keeps it in float32 for this reason too."""
    folder = sd3.layouts["diffusers"]
    half = StableDiffusion3.from_checkpoint(folder, config=sd3.config, dtype=torch.float16).encoders.t5
    with torch.no_grad():
        half.layers[0].out.weight.mul_(1e6)  # float32: no overflow here
        assert half(torch.tensor([[3, 1, 0]])).isfinite().all()
    assert half.layers[0].gate.weight.dtype == torch.float16 and half.layers[0].out.weight.dtype == torch.float32


def test_positions_are_the_centre_of_the_published_table():
    """The table's coordinates run from 0 to 64 over 192 places, the column's waves stand before the row's."""
    sizes = MMDiTConfig(width=16)
    table = positions(192, 192, sizes).unflatten(0, (192, 192))
    torch.testing.assert_close(positions(64, 32, sizes).unflatten(0, (64, 32)), table[64:128, 80:112])
    torch.testing.assert_close(table[0, 3, 0], torch.tensor(1.0).sin())  # three places to the right are 1
    torch.testing.assert_close(table[3, 0, :8], table[0, 0, :8])  # another row changes the second half only
    torch.testing.assert_close(table[3, 0, 8], torch.tensor(1.0).sin())
    with pytest.raises(ValueError, match="more than the 192 a side"):
        positions(8, 200, sizes)


def test_sizes_are_inferred_from_the_tensors(either):
    tensors = load_file(either.layouts["single"])
    core = {name.removeprefix(PREFIXES["transformer"]): tensor for name, tensor in tensors.items()}
    assert checkpoint.infer_config(core) == either.config.transformer
    assert checkpoint.infer_config(either.peer.transformer.state_dict()) == either.config.transformer
    with pytest.raises(ValueError, match="no Stable Diffusion 3 transformer"):
        checkpoint.infer_config({"a": torch.zeros(1)})


def test_text_encoders_in_files_of_their_own(sd3, tmp_path):
    tensors = stability_tensors(sd3.ours)
    core = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_encoders.")}
    save_file(core, tmp_path / "sd3_medium.safetensors")
    for part, name in (("clip_l", "clip_l"), ("clip_g", "clip_g"), ("t5", "t5xxl_fp16")):
        prefix = PREFIXES[part]
        encoder = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        if part == "clip_l":  # published without the projection
            del encoder["text_projection.weight"]
        save_file(encoder, tmp_path / f"{name}.safetensors")
    options = {"config": sd3.config, "encoders": tmp_path, "tokenizers": sd3.tokenizers}
    model = StableDiffusion3.from_checkpoint(tmp_path / "sd3_medium.safetensors", **options)
    assert torch.equal(model.generate("a cat", **QUICK), sd3.ours.generate("a cat", **QUICK))
    without_t5 = StableDiffusion3.from_checkpoint(tmp_path / "sd3_medium.safetensors", t5=False, **options)
    assert without_t5.encoders.t5 is None
    with pytest.raises(ValueError, match="prompt_3 is for T5, which is not loaded"):
        without_t5.generate("a cat", prompt_3="a dog", **QUICK)
    clips = {name: tensor for name, tensor in tensors.items() if "t5xxl" not in name}
    save_file(clips, tmp_path / "sd3_medium_incl_clips.safetensors")
    whole = StableDiffusion3.from_checkpoint(tmp_path / "sd3_medium_incl_clips.safetensors", **options)
    torch.testing.assert_close(whole.generate("a cat", **QUICK), sd3.ours.generate("a cat", **QUICK))


def test_a_folder_without_t5_needs_no_hub(sd3, tmp_path, hub_out_of_reach):
    folder = tmp_path / "small"
    shutil.copytree(sd3.layouts["diffusers"], folder, ignore=shutil.ignore_patterns("text_encoder_3", "tokenizer_3"))
    without_t5 = StableDiffusion3.from_checkpoint(folder, config=sd3.config)
    images = without_t5.generate("a cat", **QUICK)
    torch.testing.assert_close(images, sd3.ours.generate("a cat", use_t5=False, **QUICK))


def test_a_variant_that_only_some_parts_come_in(sd3, tmp_path, monkeypatch):
    """As the repositories of 3.5: text encoders in two precisions, transformer and autoencoder in one."""
    folder = tmp_path / "mixed"
    fetched = []
    shutil.copytree(sd3.layouts["diffusers"], folder)
    for part in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        (folder / part / "model.safetensors").rename(folder / part / "model.fp16.safetensors")
    monkeypatch.setattr(folders, "fetch", lambda repo, patterns: fetched.extend(patterns) or folder)
    model = StableDiffusion3.from_checkpoint("some/repository", config=sd3.config, variant="fp16")
    assert torch.equal(model.generate("a cat", **QUICK), sd3.ours.generate("a cat", **QUICK))
    assert "transformer/diffusion_pytorch_model.safetensors" in fetched
    assert "text_encoder/model.safetensors" not in fetched
    with pytest.raises(FileNotFoundError, match="no part as variant 'fp8'"):
        StableDiffusion3.from_checkpoint(folder, config=sd3.config, variant="fp8")


def test_a_folder_in_shards(sd3, tmp_path):
    folder = tmp_path / "sharded"
    shutil.copytree(sd3.layouts["diffusers"], folder)
    whole = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    files = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, file in enumerate(files):
        save_file({name: tensors[name] for name in names[i::2]}, folder / "transformer" / file)
    index = {"weight_map": {name: files[i % 2] for i, name in enumerate(names)}}
    whole.with_suffix(".safetensors.index.json").write_text(json.dumps(index))
    whole.unlink()
    model = StableDiffusion3.from_checkpoint(folder, config=sd3.config)
    assert torch.equal(model.generate("a cat", **QUICK), sd3.ours.generate("a cat", **QUICK))


def test_a_latent_that_patches_do_not_cover_is_refused():
    model = MMDiT(replace(MMDiTConfig(), width=16, heads=2, layers=1, text_width=8, pooled_width=8))
    with pytest.raises(ValueError, match="a latent of 5x4 is not covered by patches of 2x2"):
        model(torch.zeros(1, 16, 5, 4), torch.zeros(1), torch.zeros(1, 3, 8), torch.zeros(1, 8))
