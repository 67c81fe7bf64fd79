"""Single checkpoint files: harmless extra tensors pass, what cannot be used is refused with its cause."""

import pytest
import torch
from safetensors.torch import load_file, save_file

MIDDLE = "model.diffusion_model.middle_block.0.in_layers.2.weight"
TEXT_WIDTH = 24
OF_CLIP = {
    "cond_stage_model.logit_scale": torch.tensor(4.6),
    "cond_stage_model.text_projection": torch.eye(TEXT_WIDTH),
    "cond_stage_model.transformer.text_projection.weight": torch.eye(TEXT_WIDTH),
}
OF_TRAINING_TOOLS = {
    "scale_factor": torch.tensor(0.18215),
    "denoiser.sigmas": torch.zeros(1000),
    "embedding_manager.initial_embeddings.weight": torch.zeros(2),
}


@pytest.fixture(scope="module")
def sd1_tensors(sd1) -> dict[str, torch.Tensor]:
    return load_file(sd1.single_file)


@pytest.fixture(scope="module")
def sd3_tensors(sd3) -> dict[str, torch.Tensor]:
    return load_file(sd3.single_file)


@pytest.fixture
def load_with(sd1, sd1_tensors, tmp_path):
    """Load the tiny Stable Diffusion 1 from a single file with other tensors added or exchanged."""

    def load_with(tensors: dict[str, torch.Tensor], **options):
        path = tmp_path / "changed.safetensors"
        save_file(sd1_tensors | tensors, path)
        return sd1.load(path, **options)

    return load_with


def with_weight_replaced(weight: torch.Tensor, value: float) -> torch.Tensor:
    """A copy in which one weight of the middle of a kernel has this value."""
    changed = weight.clone()
    changed[0, 0, 1, 1] = value
    return changed


@pytest.mark.fault("checkpoints", refused=True)
@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        pytest.param(float("nan"), torch.float32, id="NaN"),
        pytest.param(float("inf"), torch.float32, id="infinite"),
        pytest.param(1e6, torch.float16, id="too large for float16"),
    ],
)
def test_weights_that_are_not_finite_are_refused(load_with, sd1_tensors, value, dtype):
    with pytest.raises(ValueError, match="middle"):  # in our names and in the file's
        load_with({MIDDLE: with_weight_replaced(sd1_tensors[MIDDLE], value)}, dtype=dtype)


@pytest.mark.fault("checkpoints")
def test_large_weight_that_the_dtype_can_hold_is_loaded(load_with, sd1_tensors):
    model = load_with({MIDDLE: with_weight_replaced(sd1_tensors[MIDDLE], 1e6)})
    assert any(parameter.max() == 1e6 for parameter in model.unet.parameters())


@pytest.mark.fault("checkpoints")
@pytest.mark.parametrize("name", OF_CLIP)
def test_tensors_of_clip_that_are_not_used_are_left_out(load_with, name):
    load_with({name: OF_CLIP[name]})


@pytest.mark.fault("checkpoints")
@pytest.mark.parametrize("name", OF_TRAINING_TOOLS)
def test_tensors_of_training_tools_are_left_out_or_explained(load_with, attempt, name):
    model, message = attempt(lambda: load_with({name: OF_TRAINING_TOOLS[name]}))
    explained = name in message and "cause: unknown" not in message
    assert model is not None or explained, message


def stored_as(dtype: torch.dtype, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, those of floats in another dtype."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


@pytest.mark.fault("checkpoints")
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
    ],
    ids=str,
)
def test_low_precision_copy_of_sd3_is_loaded(sd3, sd3_tensors, tmp_path, dtype):
    path = tmp_path / "copy.safetensors"
    save_file(stored_as(dtype, sd3_tensors), path)
    sd3.load(path, tokenizers=sd3.tokenizers)


@pytest.mark.fault("checkpoints", refused=True)
@pytest.mark.parametrize("marker", ["scaled_fp8", "joint_blocks.0.x_block.attn.qkv.scale_weight"])
def test_quantised_copy_of_sd3_is_refused_as_quantised(sd3, sd3_tensors, tmp_path, marker):
    path = tmp_path / "quantised.safetensors"
    save_file(sd3_tensors | {f"model.diffusion_model.{marker}": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="(?i)quanti[sz]ed"):
        sd3.load(path, tokenizers=sd3.tokenizers)
