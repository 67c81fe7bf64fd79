"""What `generate` promises, on the small system with random weights."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.sd3_peers import stability_tensors
from helpers.sd3 import checkpoint
from helpers.sd3.checkpoint import PREFIXES
from helpers.sd3.mmdit import MMDiT, MMDiTConfig, positions
from helpers.sd3.pipeline import StableDiffusion3

QUICK = {"steps": 3, "progress": False}


def test_a_picture_does_not_depend_on_its_company(sd3):
    alone = sd3.ours.generate("a cat", seed=6, **QUICK)
    beside = sd3.ours.generate("a cat", seed=5, num_images=2, **QUICK)
    torch.testing.assert_close(beside[1:], alone, atol=1e-4, rtol=0)


def test_the_walk_ends_where_generate_does(sd3):
    *_, last = sd3.ours.walk("a cat", steps=3, skip_layers=[2], prompt_3="a dog")
    made = sd3.ours.generate("a cat", skip_layers=[2], prompt_3="a dog", **QUICK)
    torch.testing.assert_close(sd3.ours.decode(last.x), made)


def test_every_prompt_counts(sd3):
    plain = sd3.ours.generate("a cat", **QUICK)
    for options in ({"negative_prompt": "a dog"}, {"prompt_2": "a dog"}, {"prompt_3": "a dog"}, {"use_t5": False}):
        assert not torch.allclose(sd3.ours.generate("a cat", **options, **QUICK), plain), options
    assert torch.equal(sd3.ours.generate("a cat", prompt_2="a cat", prompt_3="a cat", **QUICK), plain)


@pytest.mark.parametrize("sampler", ["euler", "ddim", "heun", "dpm_solver_pp_2m", "euler_ancestral"])
@pytest.mark.parametrize(("height", "width"), [(64, 80), (112, 48)])
def test_any_sampler_and_any_multiple_of_sixteen(sd3, sampler, height, width):
    made = sd3.ours.generate("a cat", height=height, width=width, sampler=sampler, **QUICK)
    assert made.shape == (1, 3, height, width) and made.isfinite().all()


def test_image_to_image_and_inpainting(sd3):
    picture, mask = 2 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) - 1, torch.zeros(64, 64)
    mask[16:48, 32:] = 1
    kept = sd3.ours.generate("a cat", init_image=picture, strength=0, **QUICK)
    again = sd3.ours.autoencoder.to_pictures(sd3.ours.autoencoder.to_latents(picture[None]))
    torch.testing.assert_close(kept, again.detach(), atol=1e-5, rtol=0)
    painted = sd3.ours.generate("a cat", init_image=picture, mask_image=mask, strength=1.0, **QUICK)[0]
    assert torch.equal(painted[:, mask == 0], picture[:, mask == 0])
    assert (painted - picture)[:, mask == 1].abs().mean() > 0.05


def test_both_references_shift_the_last_time_twice(sd3):
    twice = sd3.ours.times(28)
    torch.testing.assert_close(twice[-4:], torch.tensor([0.1998, 0.1109, 0.00893, 0.0]), atol=5e-5, rtol=0)


def test_networks_that_take_turns_give_the_same_picture(sd3):
    plain = sd3.ours.generate("a cat", **QUICK)
    turns = StableDiffusion3.from_checkpoint(sd3.layouts["diffusers"], config=sd3.config)
    card = "cuda" if torch.cuda.is_available() else "cpu"
    made = turns.take_turns(card).generate("a cat", **QUICK)
    torch.testing.assert_close(made, plain, atol=1e-2 if card == "cuda" else 1e-5, rtol=0)
    assert {p.device.type for p in turns.encoders.parameters()} == {"cpu"}


def test_half_precision_is_near_full_precision(either):
    half = StableDiffusion3.from_checkpoint(either.layouts["diffusers"], config=either.config, dtype=torch.bfloat16)
    pictures = [model.generate("a cat", guidance_scale=2.0, **QUICK) for model in (half, either.ours)]
    torch.testing.assert_close(*pictures, atol=0.2, rtol=0)


def test_positions_are_the_centre_of_the_published_table():
    """The table's coordinates run from 0 to 64 over 192 places, the column's waves stand before the row's."""
    sizes = MMDiTConfig(width=16)
    table = positions(192, 192, sizes).unflatten(0, (192, 192))
    torch.testing.assert_close(positions(64, 32, sizes).unflatten(0, (64, 32)), table[64:128, 80:112])
    torch.testing.assert_close(table[0, 3, 0], torch.tensor(1.0).sin())      # three places to the right are 1
    torch.testing.assert_close(table[3, 0, :8], table[0, 0, :8])             # another row changes the second half only
    torch.testing.assert_close(table[3, 0, 8], torch.tensor(1.0).sin())
    with pytest.raises(ValueError, match="more than the 192 a side"):
        positions(8, 200, sizes)


def test_sizes_are_read_off_the_tensors(either):
    tensors = load_file(either.layouts["single"])
    core = {name.removeprefix(PREFIXES["transformer"]): tensor for name, tensor in tensors.items()}
    assert checkpoint.inferred(core) == either.config.transformer
    assert checkpoint.inferred(either.peer.transformer.state_dict()) == either.config.transformer
    with pytest.raises(ValueError, match="no Stable Diffusion 3 transformer"):
        checkpoint.inferred({"a": torch.zeros(1)})


def test_text_encoders_in_files_of_their_own(sd3, tmp_path):
    tensors = stability_tensors(sd3.ours)
    core = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_encoders.")}
    save_file(core, tmp_path / "sd3_medium.safetensors")
    for part, name in (("clip_l", "clip_l"), ("clip_g", "clip_g"), ("t5", "t5xxl_fp16")):
        prefix = PREFIXES[part]
        own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        if part == "clip_l":  # published without the projection
            del own["text_projection.weight"]
        save_file(own, tmp_path / f"{name}.safetensors")
    options = {"config": sd3.config, "encoders": tmp_path, "tokenizers": sd3.words}
    model = StableDiffusion3.from_checkpoint(tmp_path / "sd3_medium.safetensors", **options)
    assert torch.equal(model.generate("a cat", **QUICK), sd3.ours.generate("a cat", **QUICK))
    silent = StableDiffusion3.from_checkpoint(tmp_path / "sd3_medium.safetensors", t5=False, **options)
    assert silent.encoders.t5 is None


def test_a_folder_in_shards(sd3, tmp_path):
    import json
    import shutil

    folder = tmp_path / "sharded"
    shutil.copytree(sd3.layouts["diffusers"], folder)
    whole = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    names, files = sorted(tensors), [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
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
