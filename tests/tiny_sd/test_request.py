"""Arguments of tiny Stable Diffusion's `generate` are checked before any work is done."""

import pytest

pytestmark = pytest.mark.fault("options", refused=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to 1000000, got 0"),
        ({"batch_size": -3}, "batch_size must be a whole number"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"steps": 0}, "steps must be a whole number from 1 to 100000, got 0"),
        ({"steps": 3.5}, "steps must be a whole number"),
        ({"steps": True}, "steps must be a whole number"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": "lucky"}, "seed must be a whole number .* got 'lucky'"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number .* got nan"),
        ({"guidance_scale": "strong"}, "guidance_scale must be a number .* got 'strong'"),
        ({"guidance_interval": (0, 2)}, "guidance_interval must be a number from 0 to 1, got 2"),
        ({"guidance_interval": (float("nan"), 1)}, "guidance_interval must be a number from 0 to 1, got nan"),
        ({"sampler": "unipc"}, "unknown sampler 'unipc': choose one of ddpm"),
        ({"labels": ["horse"]}, "unknown class 'horse': choose one of cat"),
        ({"labels": [7]}, "unknown class 7"),
        ({"labels": "cat"}, r"labels and prompts are lists with one entry per image"),
        ({"labels": None}, "say what to generate"),
        ({"prompts": ["a cat", "a dog"]}, "1 labels but 2 prompts"),
    ],
)
def test_a_bad_argument_is_refused(model, monkeypatch, options, message):
    monkeypatch.setattr(model.unet, "forward", lambda *_: pytest.fail("work was done before the refusal"))
    with pytest.raises(ValueError, match=message):
        model.generate(**({"labels": ["cat"]} | options))
