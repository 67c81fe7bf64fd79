"""Mistakes of a user, and the error messages about them."""

import json
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.paligemma.reference import PROCESSOR, SMALL, TOKENIZER, reference, write_folder
from helpers.vlm.checkpoint import load, one_layout
from helpers.vlm.decoding import generate, sample_token
from helpers.vlm.examples import mask_to_box
from helpers.vlm.gemma import GemmaConfig, KVCache
from helpers.vlm.mask_codes import MaskAutoencoder, MaskConfig
from helpers.vlm.paligemma import Batch, PaliGemmaModel
from helpers.vlm.pipeline import PaliGemma, save_model
from helpers.vlm.processor import Processor, Tokenizer, preprocess_image
from helpers.vlm.siglip import SiglipConfig, SiglipTower
from helpers.weights import read_metadata

IMAGE = torch.zeros(3, 28, 28)


@pytest.mark.parametrize(
    ("image", "error", "complaint"),
    [
        (None, TypeError, "got none"),
        (np.zeros((28, 28, 3)), TypeError, "an image is a path, a PIL image or a tensor .* got ndarray"),
        (torch.zeros(28, 28), ValueError, r"is \(3, H, W\), floats in \[-1, 1\]; got torch.float32 \(28, 28\)"),
        (torch.zeros(1, 28, 28), ValueError, r"got torch.float32 \(1, 28, 28\)"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), ValueError, "got torch.uint8"),
        (255 * torch.ones(3, 28, 28), ValueError, "values of an image lie in .* got up to 255"),
        (torch.full((3, 28, 28), torch.nan), ValueError, "got up to nan"),
        ("nowhere.png", FileNotFoundError, "no image at nowhere.png"),
        (Image.new("F", (30, 30)), ValueError, "cannot be used: floating-point pixels"),
    ],
)
def test_what_is_not_an_image_is_refused(assistant, image, error, complaint):
    with pytest.raises(error, match=complaint):
        assistant.answer(image, "what animal is this?")


def test_a_file_that_is_not_an_image(assistant, tmp_path):
    (tmp_path / "x.png").write_text("not one")
    with pytest.raises(ValueError, match="x.png cannot be used as an image"):
        assistant.caption(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_images_of_every_mode(mode):
    tensor = preprocess_image(Image.new(mode, (40, 20)), 28)
    assert tensor.shape == (3, 28, 28) and tensor.abs().max() <= 1


def test_transparent_pixels_become_white():
    assert preprocess_image(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), 28).min() == 1


def test_a_rotated_image_is_set_upright(tmp_path):
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[274] = 6  # the camera was rotated: the left side of the stored pixels is the top
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    upright = preprocess_image(tmp_path / "x.png", 28)
    assert upright[:, :10].mean() > 0.9 and upright[:, -10:].mean() < -0.9


@pytest.mark.parametrize(
    ("prompt", "error", "complaint"),
    [
        (
            "translate this",
            ValueError,
            "unknown task 'translate': this model was trained on caption, answer, detect, segment",
        ),
        ("", ValueError, "unknown task ''"),
        (None, ValueError, "unknown task ''"),
        ("answer en what zebra is this?", ValueError, "vocabulary does not contain 'zebra'"),
        ("answer en <image> what animal", ValueError, "must not contain <image>, which is added automatically"),
        ("answer en " + "a cat " * 600, ValueError, "text tokens, the maximum is 512"),
    ],
)
def test_bad_prompts(assistant, prompt, error, complaint):
    with pytest.raises(error, match=complaint):
        assistant.generate([IMAGE], [prompt])


def test_counts_that_do_not_match(assistant):
    with pytest.raises(ValueError, match="got 2 images and 1 prompts"):
        assistant.generate([IMAGE] * 2, ["caption en"])
    with pytest.raises(ValueError, match="got 1 prompts and 2 suffixes"):
        PROCESSOR([IMAGE], ["caption en"], ["a cat", "a dog"])
    with pytest.raises(ValueError, match="got 0 prompts"):
        PROCESSOR([], [])
    with pytest.raises(TypeError, match="a suffix must be a string, got int"):
        PROCESSOR([IMAGE], ["caption en"], [7])


def test_lists_where_lists_belong(assistant):
    with pytest.raises(TypeError, match="prompts must be a list, got the single 'caption en'"):
        assistant.generate([IMAGE] * 10, "caption en")
    with pytest.raises(ValueError, match="got 40 images and 32 prompts"):
        assistant.generate([IMAGE] * 40, ["caption en"] * 32)
    with pytest.raises(TypeError, match="suffixes must be a list, got the single 'a cat'"):
        PROCESSOR([IMAGE] * 5, ["caption en"] * 5, "a cat")
    for options in ({"max_new_tokens": 0}, {"batch_size": -1}):
        with pytest.raises(ValueError, match="max_new_tokens and batch_size must be at least 1"):
            assistant.caption(IMAGE, **options)


def test_words_outside_the_vocabulary_are_not_learned():
    with pytest.raises(ValueError, match="does not contain 'zebra'"):
        PROCESSOR([IMAGE], ["caption en"], ["a zebra"])
    with pytest.raises(ValueError, match="must not contain <unk>"):
        PROCESSOR([IMAGE], ["caption <unk>"])


def test_rows_keep_their_images():
    images = torch.stack([IMAGE, IMAGE + 0.5])
    ids = torch.arange(4)[:, None].expand(4, 20)
    batch = Batch(images, ids, ids > -1, ids < -1)
    assert batch.rows(slice(1, 3)).images[:, 0, 0, 0].tolist() == [0, 0.5]


def test_rows_that_cannot_share_the_images_evenly(assistant):
    batch = PROCESSOR([IMAGE] * 5, ["caption en"] * 5)
    with pytest.raises(ValueError, match="5 rows cannot share 2 images"):
        assistant.model.logits(batch._replace(images=batch.images[:2]))


def test_errors_name_the_image_of_the_answer(assistant):
    with patch.object(PaliGemma, "generate", lambda *_, **__: ["<loc0000><loc0000><loc0512><loc0512> nose", "a cat"]):
        with pytest.warns(UserWarning, match="the answer about image 1 cannot be read: 'a cat' has 0 <loc>"):
            assistant.detect([IMAGE] * 2, "nose")


def test_weights_of_something_else():
    with pytest.raises(ValueError, match="belong to another network: their config has K, code_width, width"):
        PaliGemma.from_weights("masks")


def test_codes_belong_to_a_codebook(assistant, tmp_path):
    first = MaskAutoencoder(MaskConfig.tiny())
    other = MaskAutoencoder(MaskConfig.tiny())
    first.save(tmp_path / "first.safetensors", {})
    other.save(tmp_path / "other.safetensors", {})
    checksum = read_metadata(tmp_path / "first.safetensors")["sha256"]
    save_model(assistant.model, TOKENIZER, tmp_path / "x.safetensors", {}, masks=checksum)
    PaliGemma.from_weights(tmp_path / "x.safetensors", tmp_path / "first.safetensors")
    with pytest.raises(ValueError, match="trained with the codebook of other masks .* python -m helpers.vlm.train"):
        PaliGemma.from_weights(tmp_path / "x.safetensors", tmp_path / "other.safetensors")


def test_a_mask_lies_where_the_image_shows_the_object(tmp_path):
    """`segment` as a whole, on an image whose stored pixels are rotated."""
    codebook = SimpleNamespace(decode=lambda codes: torch.ones(len(codes), 64, 64))
    assistant = PaliGemma(PaliGemmaModel(SMALL).eval(), TOKENIZER, codebook)
    image = Image.new("RGB", (20, 40))
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    text = "<loc0000><loc0512><loc1023><loc1023>" + "<seg000>" * 16 + " face"
    with patch.object(PaliGemma, "generate", lambda *_, **__: [text]):
        ((segment,),) = assistant.segment([tmp_path / "x.jpg"], "face")
    assert segment.mask.shape == (20, 40) and segment.name == "face"
    assert segment.mask[:, 21:].min() > 0.999 and segment.mask[:, :20].max() == 0


def test_impossible_sampling_options(assistant):
    for options in ({"temperature": -1}, {"top_p": 0}, {"temperature": 1, "top_p": 1.5}):
        with pytest.raises(ValueError, match="temperature must be at least 0 and top_p in"):
            assistant.caption(IMAGE, **options)


def test_a_batch_with_answers_is_not_continued(assistant):
    batch = PROCESSOR([IMAGE], ["caption en"], ["a cat"])
    with pytest.raises(ValueError, match="contains answers already"):
        next(generate(assistant.model, batch, eos_token_id=TOKENIZER.eos_token_id))


def test_a_loss_needs_answers(assistant):
    with pytest.raises(ValueError, match=r"rows \[0\] have no suffix"):
        assistant.model.losses(PROCESSOR([IMAGE], ["caption en"]))


def test_image_tokens_and_patches_must_match(assistant):
    batch = Processor(TOKENIZER, 28, image_tokens=3)([IMAGE], ["caption en"])
    with pytest.raises(ValueError, match="every row needs 4 image tokens, one per patch; got .3."):
        assistant.model.logits(batch)


def test_a_vision_tower_takes_a_single_size():
    with pytest.raises(ValueError, match=r"the vision tower takes images \(B, 3, 28, 28\), got \(1, 3, 56, 56\)"):
        SiglipTower(SMALL.vision)(torch.zeros(1, 3, 56, 56))
    with pytest.raises(ValueError, match="patches of 14 pixels do not tile a side of 30"):
        SiglipConfig(size=30)
    with pytest.raises(ValueError, match="5 query heads cannot share 2 key/value heads"):
        GemmaConfig(heads=5, kv_heads=2)


def test_a_full_cache():
    cache = KVCache(SMALL.language, 1, 4, torch.zeros(1))
    keys = torch.zeros(1, 1, 5, SMALL.language.head_width)
    with pytest.raises(ValueError, match="the cache holds at most 4 tokens, but this would be token 5"):
        cache.update(0, keys, keys)


def test_masks_without_a_decoder(assistant):
    with pytest.raises(ValueError, match="masks need the decoder of <seg> tokens"):
        assistant.segment(IMAGE, "nose")


def test_mask_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="vae-oid.npz"):
        MaskAutoencoder.from_published(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", **{"decoder.0.weight": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="is not PaliGemma's mask decoder"):
        MaskAutoencoder.from_published(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not an .npz file of plain arrays"):
        MaskAutoencoder.from_published(tmp_path / "y.npz")
    with pytest.raises(ValueError, match=r"masks are \(B, 64, 64\), got \(1, 32, 32\)"):
        MaskAutoencoder(MaskConfig.tiny()).encode(torch.zeros(1, 32, 32))
    with pytest.raises(ValueError, match="this mask is empty"):
        mask_to_box(torch.zeros(8, 8, dtype=torch.bool))


def test_published_mask_weights_are_loaded(tmp_path):
    torch.manual_seed(0)
    model = MaskAutoencoder(MaskConfig())
    arrays = {f"decoder.{name}": tensor.numpy() for name, tensor in model.decoder.state_dict().items()}
    np.savez(tmp_path / "x.npz", **arrays, **{"_vq_vae._embedding": model.quantizer.codebook.numpy()})
    codes = torch.randint(128, (2, 16))
    with torch.no_grad():
        probability = model.eval().decode(codes)  # the output taken as log-odds
        output = (probability / (1 - probability)).log()  # for the published weights -1, outside, to 1
        published = MaskAutoencoder.from_published(tmp_path / "x.npz").decode(codes)
        torch.testing.assert_close(published, (output / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs():
    return reference()


@pytest.fixture
def folder(theirs, tmp_path):
    return write_folder(theirs, tmp_path / "paligemma", 2025)


def change_tensors(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (
            lambda t: t.pop("model.language_model.norm.weight"),
            "this is not PaliGemma: missing language_model.norm.weight",
        ),
        (lambda t: t.update(extra=torch.zeros(1)), "this is not PaliGemma: unexpected extra"),
        (
            lambda t: t.update({"model.multi_modal_projector.linear.bias": torch.zeros(7)}),
            r"bias is \(7,\), made for \(48,\)",
        ),
        (lambda t: t.update({"lm_head.weight": torch.zeros(len(TOKENIZER), 48)}), "a separate output head"),
        (
            lambda t: t.update({"model.language_model.layers.0.pre_feedforward_layernorm.weight": torch.zeros(48)}),
            "Likeliest cause: PaliGemma 2",
        ),
    ],
)
def test_tensors_that_do_not_fit(folder, damage, complaint):
    change_tensors(folder, damage)
    with pytest.raises(ValueError, match=complaint):
        PaliGemma.from_checkpoint(folder)


def test_folders_of_something_else(folder, hub_out_of_reach):
    change_config(folder, model_type="llava")
    with pytest.raises(ValueError, match="holds a 'llava', not a PaliGemma"):
        PaliGemma.from_checkpoint(folder)
    change_config(folder, model_type="paligemma", text_config={"model_type": "gemma3_text"})
    with pytest.raises(ValueError, match="the decoder of .* is gemma3_text: the course loads PaliGemma 1 and 2"):
        PaliGemma.from_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        PaliGemma.from_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        PaliGemma.from_checkpoint(folder)
    with pytest.raises(ValueError, match="is a file: pass its folder"):
        PaliGemma.from_checkpoint(folder / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="no file or folder here, and the hub did not give it"):
        PaliGemma.from_checkpoint("google/paligemma-3b-mix-224")


def test_tokenizers_of_something_else(folder):
    change_config(folder, image_token_index=5)
    with pytest.raises(ValueError, match="has <image> at .*, the model expects it at 5"):
        PaliGemma.from_checkpoint(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer"):
        PaliGemma.from_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        PaliGemma.from_checkpoint(folder)
    import tokenizers

    with pytest.raises(ValueError, match="not a tokenizer of PaliGemma or Gemma: it has no <pad>"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")))


def test_a_truncated_file(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        PaliGemma.from_checkpoint(folder)


def test_nothing_is_loaded_if_anything_is_wrong(theirs):
    model = PaliGemmaModel(SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = one_layout(theirs.state_dict())
    tensors.pop("language_model.norm.weight")
    with pytest.raises(ValueError, match="missing language_model.norm.weight"):
        load(model, tensors)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_probability_above_one_is_refused():
    with pytest.raises(ValueError, match="got 0 and 2"):
        sample_token(torch.zeros(1, 3), 0, 2)
