"""CLIP's towers beside transformers', and what its loss means."""

import math

import pytest
import torch

from benchmarks.parity import difference, randomised
from helpers.text.clip import TEXT_NAMES, CLIPTowerConfig, TextTower
from helpers.text.contrastive import CLIP, IMAGE_NAMES, ImageTower
from helpers.weights.pretrained import load_pretrained

TEXT = CLIPTowerConfig(width=24, layers=2, heads=4, mlp=96, vocabulary=50, length=9, projection=16)
IMAGE = CLIPTowerConfig(width=32, layers=2, heads=4, mlp=64, size=16, patch=4, projection=16)


def on_disk(module: torch.nn.Module, inner: str) -> dict[str, torch.Tensor]:
    """Keys as files have them: with the inner prefix that some versions of transformers keep in memory and some not."""
    tensors = {n: t for n, t in module.state_dict().items() if not n.endswith("position_ids")}
    return {
        n if n.startswith((inner, "text_projection", "visual_projection")) else inner + n: t for n, t in tensors.items()
    }


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_text_tower_is_the_reference(activation):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTowerConfig(**{**TEXT.__dict__, "activation": activation})
    theirs = randomised(
        CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=50,
                hidden_size=24,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=9,
                hidden_act=activation,
                projection_dim=16,
                eos_token_id=49,
                bos_token_id=48,
            )
        )
    )
    ours = TextTower(config)
    load_pretrained(ours, on_disk(theirs, "text_model."), TEXT_NAMES, what="a text tower")
    ids = torch.tensor([[48, 3, 4, 49, 49, 49], [48, 7, 8, 9, 1, 49]])
    with torch.no_grad():
        said = theirs(ids, output_hidden_states=True)
        assert difference(ours(ids), said.last_hidden_state) <= 1e-5
        assert difference(ours.pooled(ids, eos_id=49), said.text_embeds) <= 1e-5
        assert difference(ours(ids, clip_skip=1, norm=False), said.hidden_states[-2]) <= 1e-5


def test_the_image_tower_is_the_reference():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    theirs = randomised(
        CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=16,
                patch_size=4,
                projection_dim=16,
            )
        )
    )
    ours = ImageTower(IMAGE)
    load_pretrained(ours, on_disk(theirs, "vision_model."), IMAGE_NAMES, what="an image tower")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert difference(ours(images), theirs(images).image_embeds) <= 1e-5


def test_published_sizes():
    with torch.device("meta"):
        text = TextTower(CLIPTowerConfig.sd1_text())
        image = ImageTower(CLIPTowerConfig.vit_l_14_image())
    assert sum(p.numel() for p in text.parameters()) == 123_060_480
    assert sum(p.numel() for p in image.parameters()) == 303_966_208  # transformers' ViT-L/14 with its projection


def test_a_state_knows_nothing_of_later_tokens():
    torch.manual_seed(0)
    tower = TextTower(TEXT)
    a = tower(torch.tensor([[1, 2, 3, 4]]))
    b = tower(torch.tensor([[1, 2, 3, 9]]))
    torch.testing.assert_close(a[:, :3], b[:, :3])
    assert not torch.allclose(a[:, 3], b[:, 3])


@pytest.mark.parametrize(
    ("ids", "skip", "message"),
    [
        (torch.zeros(1, 10, dtype=torch.long), 0, "at most 9 tokens, got 10"),
        (torch.zeros(1, 4, dtype=torch.long), 2, "between 0 and 1, got 2"),
    ],
)
def test_what_the_tower_cannot_do_it_refuses(ids, skip, message):
    with pytest.raises(ValueError, match=message):
        TextTower(TEXT)(ids, clip_skip=skip)


def test_the_loss_of_uniform_logits_is_the_logarithm_of_the_batch():
    torch.manual_seed(0)
    model = CLIP(TEXT, IMAGE, eos_id=49)
    model.logit_scale.data.fill_(-20.0)  # every pair looks alike
    images = torch.randn(6, 3, 16, 16)
    ids = torch.randint(48, (6, 9))
    torch.testing.assert_close(model.losses(images, ids), torch.full((6,), math.log(6)))


def test_the_loss_does_not_care_about_the_order_of_pairs():
    torch.manual_seed(0)
    model = CLIP(TEXT, IMAGE, eos_id=49)
    images = torch.randn(6, 3, 16, 16)
    ids = torch.randint(48, (6, 9))
    order = torch.randperm(6)
    torch.testing.assert_close(model.losses(images, ids)[order], model.losses(images[order], ids[order]))
