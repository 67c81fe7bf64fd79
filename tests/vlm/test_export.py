"""The tiny PaliGemma in transformers: the same text from the exported folder, with transformers' own processor."""

import pytest
import torch
from PIL import Image

from helpers.data import load_faces
from helpers.vlm.export import to_transformers
from helpers.vlm.pipeline import PaliGemma


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    assistant = PaliGemma.from_weights()
    folder = tmp_path_factory.mktemp("exported")
    to_transformers(assistant, folder)
    return assistant, folder


def test_transformers_says_the_same(exported):
    from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

    assistant, folder = exported
    model = PaliGemmaForConditionalGeneration.from_pretrained(folder).eval()
    processor = PaliGemmaProcessor.from_pretrained(folder)
    faces = load_faces("toy-faces", "val", 64, limit=4, progress=False)
    for pixels in faces.images:
        image = Image.fromarray(pixels.transpose(1, 2, 0))
        for prompt in ("caption en", "answer en what animal is this?"):
            inputs = processor(images=image, text=f"<image>{prompt}", return_tensors="pt")
            inputs.pop("labels", None)
            generated = model.generate(**inputs, max_new_tokens=30, do_sample=False)
            text = processor.decode(generated[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            assert text == assistant.generate([image], [prompt])[0]


def test_the_course_reads_its_own_export(exported):
    assistant, folder = exported
    loaded = PaliGemma.from_checkpoint(folder)
    assert loaded.model.config == assistant.model.config
    theirs = loaded.model.state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in assistant.model.state_dict().items())
