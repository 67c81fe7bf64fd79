"""What a user may get wrong, and what they are told."""

import json
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.paligemma.reference import PROCESSOR, SMALL, WORDS, reference, write_folder
from helpers.vlm.checkpoint import load, one_layout
from helpers.vlm.decoding import choose, generate
from helpers.vlm.examples import around
from helpers.vlm.gemma import GemmaConfig, KVCache
from helpers.vlm.mask_codes import MaskAutoencoder, MaskConfig
from helpers.vlm.paligemma import Batch, PaliGemmaModel
from helpers.vlm.pipeline import PaliGemma, save_model
from helpers.vlm.processor import Processor, Tokenizer, picture_tensor
from helpers.vlm.siglip import SiglipConfig, SiglipTower
from helpers.weights import read_metadata

PICTURE = torch.zeros(3, 28, 28)


@pytest.mark.parametrize(
    ("picture", "error", "complaint"),
    [
        (None, TypeError, "got none"),
        (np.zeros((28, 28, 3)), TypeError, "a picture is a path, a PIL picture or a tensor .* got ndarray"),
        (torch.zeros(28, 28), ValueError, r"is \(3, H, W\), floats in \[-1, 1\]; got torch.float32 \(28, 28\)"),
        (torch.zeros(1, 28, 28), ValueError, r"got torch.float32 \(1, 28, 28\)"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), ValueError, "got torch.uint8"),
        (255 * torch.ones(3, 28, 28), ValueError, "values lie in .* got up to 255"),
        (torch.full((3, 28, 28), torch.nan), ValueError, "got up to nan"),
        ("nowhere.png", FileNotFoundError, "no picture at nowhere.png"),
        (Image.new("F", (30, 30)), ValueError, "cannot be used: floating-point pixels"),
    ],
)
def test_no_picture(untaught, picture, error, complaint):
    with pytest.raises(error, match=complaint):
        untaught.answer(picture, "what animal is this?")


def test_a_file_that_is_no_picture(untaught, tmp_path):
    (tmp_path / "x.png").write_text("not one")
    with pytest.raises(ValueError, match="x.png cannot be used as a picture"):
        untaught.caption(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_pictures_of_every_mode(mode):
    tensor = picture_tensor(Image.new(mode, (40, 20)), 28)
    assert tensor.shape == (3, 28, 28) and tensor.abs().max() <= 1


def test_what_is_transparent_lies_on_white():
    assert picture_tensor(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), 28).min() == 1


def test_a_rotated_picture_is_set_upright(tmp_path):
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[274] = 6  # the camera was held turned: what is left in the file is on top
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    upright = picture_tensor(tmp_path / "x.png", 28)
    assert upright[:, :10].mean() > 0.9 and upright[:, -10:].mean() < -0.9


@pytest.mark.parametrize(
    ("prompt", "error", "complaint"),
    [
        (
            "translate this",
            ValueError,
            "unknown task 'translate': this model was taught caption, answer, detect, segment",
        ),
        ("", ValueError, "unknown task ''"),
        (None, ValueError, "unknown task ''"),
        ("answer en what zebra is this?", ValueError, "has never read 'zebra'"),
        ("answer en <image> what animal", ValueError, "must not hold <image>, which is added where it belongs"),
        ("answer en " + "a cat " * 600, ValueError, "tokens of text, the most are 512"),
    ],
)
def test_bad_prompts(untaught, prompt, error, complaint):
    with pytest.raises(error, match=complaint):
        untaught.write([PICTURE], [prompt])


def test_counts_that_do_not_match(untaught):
    with pytest.raises(ValueError, match="got 2 pictures and 1 prompts"):
        untaught.write([PICTURE] * 2, ["caption en"])
    with pytest.raises(ValueError, match="got 1 prompts and 2 suffixes"):
        PROCESSOR([PICTURE], ["caption en"], ["a cat", "a dog"])
    with pytest.raises(ValueError, match="got 0 prompts"):
        PROCESSOR([], [])
    with pytest.raises(TypeError, match="a suffix is a text, got int"):
        PROCESSOR([PICTURE], ["caption en"], [7])


def test_lists_where_lists_belong(untaught):
    with pytest.raises(TypeError, match="prompts are a list, got the single 'caption en'"):
        untaught.write([PICTURE] * 10, "caption en")
    with pytest.raises(ValueError, match="got 40 pictures and 32 prompts"):
        untaught.write([PICTURE] * 40, ["caption en"] * 32)
    with pytest.raises(TypeError, match="suffixes are a list, got the single 'a cat'"):
        PROCESSOR([PICTURE] * 5, ["caption en"] * 5, "a cat")
    for options in ({"limit": 0}, {"batch_size": -1}):
        with pytest.raises(ValueError, match="limit and batch_size are 1 or more"):
            untaught.caption(PICTURE, **options)


def test_words_that_were_never_read_are_not_learned():
    with pytest.raises(ValueError, match="never read 'zebra'"):
        PROCESSOR([PICTURE], ["caption en"], ["a zebra"])
    with pytest.raises(ValueError, match="must not hold <unk>"):
        PROCESSOR([PICTURE], ["caption <unk>"])


def test_rows_keep_their_pictures():
    pictures = torch.stack([PICTURE, PICTURE + 0.5])
    ids = torch.arange(4)[:, None].expand(4, 20)
    batch = Batch(pictures, ids, ids > -1, ids < -1)
    assert batch.rows(slice(1, 3)).pictures[:, 0, 0, 0].tolist() == [0, 0.5]


def test_rows_that_pictures_cannot_share(untaught):
    batch = PROCESSOR([PICTURE] * 5, ["caption en"] * 5)
    with pytest.raises(ValueError, match="5 rows cannot be about 2 pictures"):
        untaught.model.logits(batch._replace(pictures=batch.pictures[:2]))


def test_answers_say_which_picture_they_are_about(untaught):
    with patch.object(PaliGemma, "write", lambda *_, **__: ["<loc0000><loc0000><loc0512><loc0512> nose", "a cat"]):
        with pytest.raises(ValueError, match="the answer about picture 1: 'a cat' has 0 <loc>"):
            untaught.detect([PICTURE] * 2, "nose")


def test_weights_of_something_else():
    with pytest.raises(ValueError, match="belong to another network: they tell K, code_width, width"):
        PaliGemma.from_weights("masks")


def test_codes_belong_to_their_masks(untaught, tmp_path):
    mine = MaskAutoencoder(MaskConfig.tiny())
    other = MaskAutoencoder(MaskConfig.tiny())
    mine.save(tmp_path / "mine.safetensors", {})
    other.save(tmp_path / "other.safetensors", {})
    told = read_metadata(tmp_path / "mine.safetensors")["sha256"]
    save_model(untaught.model, WORDS, tmp_path / "x.safetensors", {}, masks=told)
    PaliGemma.from_weights(tmp_path / "x.safetensors", tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match="learned to write the codes of other masks .* python -m helpers.vlm.train"):
        PaliGemma.from_weights(tmp_path / "x.safetensors", tmp_path / "other.safetensors")


def test_an_outline_lies_where_the_picture_has_it(tmp_path):
    """`segment` as a whole, on a picture whose stored pixels lie on their side."""
    codebook = SimpleNamespace(decode=lambda codes: torch.ones(len(codes), 64, 64))
    assistant = PaliGemma(PaliGemmaModel(SMALL).eval(), WORDS, codebook)
    picture = Image.new("RGB", (20, 40))
    exif = Image.Exif()
    exif[274] = 6
    picture.save(tmp_path / "x.jpg", exif=exif)
    said = "<loc0000><loc0512><loc1023><loc1023>" + "<seg000>" * 16 + " face"
    with patch.object(PaliGemma, "write", lambda *_, **__: [said]):
        ((found,),) = assistant.segment([tmp_path / "x.jpg"], "face")
    assert found.mask.shape == (20, 40) and found.name == "face"
    assert found.mask[:, 21:].min() > 0.999 and found.mask[:, :20].max() == 0


def test_sampling_that_means_nothing(untaught):
    for options in ({"temperature": -1}, {"top_p": 0}, {"temperature": 1, "top_p": 1.5}):
        with pytest.raises(ValueError, match="temperature is 0 or more and top_p lies in"):
            untaught.caption(PICTURE, **options)


def test_a_batch_with_answers_is_not_continued(untaught):
    batch = PROCESSOR([PICTURE], ["caption en"], ["a cat"])
    with pytest.raises(ValueError, match="holds answers already"):
        next(generate(untaught.model, batch, end=WORDS.end))


def test_a_loss_needs_answers(untaught):
    with pytest.raises(ValueError, match=r"rows \[0\] have no suffix"):
        untaught.model.losses(PROCESSOR([PICTURE], ["caption en"]))


def test_image_tokens_and_patches_must_match(untaught):
    batch = Processor(WORDS, 28, tokens=3)([PICTURE], ["caption en"])
    with pytest.raises(ValueError, match="every row needs 4 image tokens, one per patch; got .3."):
        untaught.model.logits(batch)


def test_a_tower_sees_one_size():
    with pytest.raises(ValueError, match=r"the tower sees \(B, 3, 28, 28\), got \(1, 3, 56, 56\)"):
        SiglipTower(SMALL.vision)(torch.zeros(1, 3, 56, 56))
    with pytest.raises(ValueError, match="patches of 14 pixels do not tile a side of 30"):
        SiglipConfig(size=30)
    with pytest.raises(ValueError, match="5 heads cannot share 2 heads of keys and values"):
        GemmaConfig(heads=5, kv_heads=2)


def test_a_full_cache():
    cache = KVCache(SMALL.language, 1, 4, torch.zeros(1))
    keys = torch.zeros(1, 1, 5, SMALL.language.head_width)
    with pytest.raises(ValueError, match="the cache was made for 4 tokens, this would be number 5"):
        cache.extended(0, keys, keys)


def test_masks_without_a_decoder(untaught):
    with pytest.raises(ValueError, match="masks need the decoder of <seg> tokens"):
        untaught.segment(PICTURE, "nose")


def test_mask_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="vae-oid.npz"):
        MaskAutoencoder.from_published(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", **{"decoder.0.weight": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="is not PaliGemma's mask decoder"):
        MaskAutoencoder.from_published(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="no .npz file of plain arrays"):
        MaskAutoencoder.from_published(tmp_path / "y.npz")
    with pytest.raises(ValueError, match=r"masks are \(B, 64, 64\), got \(1, 32, 32\)"):
        MaskAutoencoder(MaskConfig.tiny()).encode(torch.zeros(1, 32, 32))
    with pytest.raises(ValueError, match="this mask is empty"):
        around(torch.zeros(8, 8, dtype=torch.bool))


def test_published_mask_weights_are_read_where_they_belong(tmp_path):
    torch.manual_seed(0)
    model = MaskAutoencoder(MaskConfig())
    arrays = {f"decoder.{name}": tensor.numpy() for name, tensor in model.decoder.state_dict().items()}
    np.savez(tmp_path / "x.npz", **arrays, **{"_vq_vae._embedding": model.quantizer.codebook.numpy()})
    codes = torch.randint(128, (2, 16))
    with torch.no_grad():
        likely = model.eval().decode(codes)  # of log-odds
        drawn = (likely / (1 - likely)).log()  # from -1, outside, to 1
        published = MaskAutoencoder.from_published(tmp_path / "x.npz").decode(codes)
        torch.testing.assert_close(published, (drawn / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs():
    return reference()


@pytest.fixture
def folder(theirs, tmp_path):
    return write_folder(theirs, tmp_path / "paligemma", 2025)


def changed(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def reconfigured(folder, **changes) -> None:
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
        (lambda t: t.update({"lm_head.weight": torch.zeros(len(WORDS), 48)}), "a head of its own"),
        (
            lambda t: t.update({"model.language_model.layers.0.pre_feedforward_layernorm.weight": torch.zeros(48)}),
            "Likeliest cause: PaliGemma 2",
        ),
    ],
)
def test_tensors_that_do_not_fit(folder, damage, complaint):
    changed(folder, damage)
    with pytest.raises(ValueError, match=complaint):
        PaliGemma.from_checkpoint(folder)


def test_folders_of_something_else(folder, hub_out_of_reach):
    reconfigured(folder, model_type="llava")
    with pytest.raises(ValueError, match="holds a 'llava', not a PaliGemma"):
        PaliGemma.from_checkpoint(folder)
    reconfigured(folder, model_type="paligemma", text_config={"model_type": "gemma2"})
    with pytest.raises(ValueError, match="speaks through gemma2: the course reads PaliGemma 1"):
        PaliGemma.from_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        PaliGemma.from_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        PaliGemma.from_checkpoint(folder)
    with pytest.raises(ValueError, match="is a file: pass its folder"):
        PaliGemma.from_checkpoint(folder / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="no file or folder here, and the hub did not give it"):
        PaliGemma.from_checkpoint("google/paligemma-3b-mix-224")


def test_tokenizers_of_something_else(folder):
    reconfigured(folder, image_token_index=5)
    with pytest.raises(ValueError, match="has <image> at .*, the model expects it at 5"):
        PaliGemma.from_checkpoint(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        PaliGemma.from_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        PaliGemma.from_checkpoint(folder)
    import tokenizers

    with pytest.raises(ValueError, match="no tokenizer of PaliGemma or Gemma: it has no <pad>"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")))


def test_a_truncated_file(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        PaliGemma.from_checkpoint(folder)


def test_nothing_is_loaded_where_anything_is_wrong(theirs):
    model = PaliGemmaModel(SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = one_layout(theirs.state_dict())
    tensors.pop("language_model.norm.weight")
    with pytest.raises(ValueError, match="missing language_model.norm.weight"):
        load(model, tensors)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_choose_is_told_nothing_wrong():
    with pytest.raises(ValueError, match="got 0 and 2"):
        choose(torch.zeros(1, 3), 0, 2)
