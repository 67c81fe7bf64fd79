"""What a file of weights is instead, guessed from the names of its tensors, and which tensors of a file nobody needs.

One table for all systems: whatever loads a checkpoint recognises what any of the others knows.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

QUANTISED = "it is quantised, which the course cannot compute with: take the float16, bfloat16 or float32 file"


class Cause(NamedTuple):
    """One row: what a file is whose names match."""

    pattern: str
    text: str
    systems: str = ""  # those whose own files have such names: no explanation there


CAUSES = (  # the most specific first
    Cause(r"scaled_fp8|\.scale_(weight|input)$|\.(weight|input)_scale$|\.comfy_quant|\.SCB$|weight_format$", QUANTISED),
    Cause(r"\.(absmax|quant_map|nested_absmax|qweight|qzeros|scales|g_idx)$|quant_state|bitsandbytes", QUANTISED),
    Cause(r"lora[_.]|\.(lora_(up|down|[AB])|hada_w1_a|lokr_w1)\b", "a LoRA, a small addition to a model: load the "
          "model it was trained on"),
    Cause(r"^control_model\.|controlnet_", "a ControlNet, which steers a model and is none itself"),
    Cause(r"motion_modules", "a motion module (AnimateDiff), which adds movement to a model and is none itself"),
    Cause(r"^(image_proj|ip_adapter)\.", "an IP-Adapter, which adds image prompts to a model and is none itself"),
    Cause(r"^emb_params$|^<.*>$|^string_to_", "a textual inversion: a word for a model, not a model"),
    Cause(r"\.q_norm\.|pre_feedforward_layernorm", "PaliGemma 2 or Gemma 2 and 3, whose layers have more norms",
          "paligemma2"),
    Cause(r"double_blocks|single_transformer_blocks", "Flux, another architecture"),
    Cause(r"joint_blocks|norm1_context", "Stable Diffusion 3: see notebook 06", "sd3"),
    Cause(r"^conditioner\.|label_emb|add_embedding", "SDXL: this is a course on SD 1 and 3"),
    Cause(r"^depth_model\.", "Stable Diffusion 2's depth model"),
    Cause(r"^cond_stage_model\.model\.", "Stable Diffusion 2, whose text encoder is OpenCLIP's"),
    Cause(r"input_blocks\.", "Stable Diffusion 1, 2 or XL, which have a U-Net: see notebook 05", "sd1"),
    Cause(r"^model_ema\.diffusion_model", "a file with averaged weights only (EMA keys), the ordinary ones were "
          "stripped"),
    Cause(r"img/|llm/", "big_vision's .npz layout: use the hub's safetensors"),
    Cause(r"^safety_checker|^vision_model\..*visual_projection", "an image classifier, CLIP's or the safety checker's"),
    Cause(r"^vision_model\.", "SigLIP or CLIP alone: an image encoder without what the course joins it to"),
    Cause(r"^(down_blocks|time_embedding)\.", "a diffusers U-Net alone: pass its whole folder", "sd1"),
    Cause(r"^transformer_blocks\.", "a diffusers transformer alone: pass its whole folder", "sd3"),
    Cause(r"^(encoder|decoder)\.(conv_in|down|up|mid|layers)", "an autoencoder alone: pass the whole checkpoint's "
          "folder or file", "sd1 sd3 autoencoder"),
    Cause(r"^(text_model|encoder\.block|shared|embeddings)\b", "a text encoder alone: pass the whole checkpoint, or of "
          "a Stable Diffusion 3 file its folder as encoders=", "sd1 sd3"),
    Cause(r"^(model\.)?layers\.", "a language model alone, without a vision tower"),
)  # fmt: skip

# Tensors that no image depends on: tables that follow from the schedule, CLIP's temperature, what only training needs
UNUSED = re.compile(
    r"(.*\.)?(position_ids|logit_scale|inv_freq)$"
    r"|(betas|logvar|alphas_cumprod|sqrt_|log_one|posterior_|lvlb_weights|ddim_)"
    r"|(scale_factor|global_step|epoch|denoiser\.sigmas|model_sampling\.sigmas)$"
    r"|(embedding_manager|first_stage_model\.loss|first_stage_model\.model_ema|loss|lpips|discriminator)\."
)


def guess_cause(tensors: Mapping[str, Tensor], system: str = "") -> str:
    """Guess from its tensors' names what a file is: the text of the first row of CAUSES that matches any, or "".

    Args:
        tensors: under the file's names.
        system: what is being loaded ("sd1", "sd3", "autoencoder", "paligemma2"); rows about its own files are left out.
    """
    for cause in CAUSES:
        if system and system in cause.systems.split():
            continue
        if any(re.search(cause.pattern, name) for name in tensors):
            return cause.text
    return ""


def drop_unused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without those of UNUSED, which some tools store beside a model and nothing reads."""
    return {name: tensor for name, tensor in tensors.items() if not UNUSED.match(name)}
