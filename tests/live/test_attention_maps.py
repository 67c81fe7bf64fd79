"""Cross-attention maps of the page equal those that the course records in PyTorch."""

import torch

from helpers.layers.attention import record_attention_maps
from helpers.sd1.pipeline import StableDiffusion1
from pages.live.node import Engine

PROMPT = "a striped orange cat with green eyes"


def test_maps_equal_pytorchs(engine: Engine) -> None:
    pipeline = engine.load("sd1")
    code = f"""
        const recorder = {pipeline}.recordAttention(prompt);
        const [step] = sampleSteps({pipeline}, {{ prompt, scale: 4, seed: 7, steps: 1, sampler: "ddim" }});
        {pipeline}.attention.recorder = null;
        return recorder.maps();"""
    model = StableDiffusion1.from_weights()
    with record_attention_maps(model.unet) as layers:
        list(model.sample_steps(PROMPT, steps=1, guidance_scale=4.0, seed=7, sampler="ddim"))
        maps = [layer.attention_map for layer in layers.values()]
    conditional = torch.cat([each[1] for each in maps if each.shape[2] == 64])  # (layers and heads, positions, tokens)
    tokens = len(model.tokenizer.split(PROMPT))
    expected = conditional.mean(0)[:, 1 : tokens + 1].T
    torch.testing.assert_close(engine(code, prompt=PROMPT).view(expected.shape), expected, atol=1e-5, rtol=0)
