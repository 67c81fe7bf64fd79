"""PaliGemma as an assistant: an image and a prompt in, text, boxes and masks out.

Every method takes one image and returns one result, or takes a list and returns a list. Alphabet: H W of an image.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import torch
from torch import Tensor

from helpers.vlm import checkpoint
from helpers.vlm.boxes import Box, Detection, parse, paste_mask
from helpers.vlm.decoding import check_sampling, generate
from helpers.vlm.gemma import GemmaConfig
from helpers.vlm.gemma2 import Gemma2Config
from helpers.vlm.mask_codes import MaskAutoencoder
from helpers.vlm.paligemma import PaliGemmaConfig, PaliGemmaModel
from helpers.vlm.processor import Processor, Tokenizer, check_image
from helpers.vlm.siglip import SiglipConfig
from helpers.weights import TRAINING_COMMANDS, load_weights, read_config, read_metadata, save_with_config
from helpers.weights.pretrained import check_dtype_and_device

TASKS = ("caption", "answer", "detect", "segment")
Located = TypeVar("Located", Detection, "Segment")
MAX_LOCATION_TOKENS = 256  # of an answer with boxes: an object with its mask takes more than twenty tokens


class Segment(NamedTuple):
    """A segmented object."""

    name: str
    box: Box
    mask: Tensor  # (H, W) in [0, 1], the probability of each pixel to belong to it


class PaliGemma:
    """Model, processor, and optionally the decoder of masks."""

    def __init__(
        self,
        model: PaliGemmaModel,
        tokenizer: Tokenizer,
        masks: MaskAutoencoder | None = None,
        tasks: Sequence[str] | None = None,
    ):
        """
        Args:
            masks: decodes `<seg>` tokens; without it, `segment` raises.
            tasks: the first words of prompts that the model was trained on; None: any prompt.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.masks = masks
        self.tasks = tasks
        vision = model.config.vision
        self.processor = Processor(tokenizer, vision.size, vision.tokens)

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path,
        *,
        masks: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> "PaliGemma":
        """Load published weights, strictly.

        Args:
            source: a folder with config.json, *.safetensors and tokenizer.json, or a hub repository such as
                "google/paligemma-3b-mix-224" or "google/paligemma2-3b-mix-224" ("mix" answers free prompts; "pt" is
                for fine-tuning and knows its tasks).
            masks: the file vae-oid.npz, for `segment`.
            dtype, device: of the computation. The 3B models take 12 GB in float32, 6 in bfloat16.

        Raises:
            FileNotFoundError: where something is missing; the message says what.
            ValueError: for missing or unexpected tensors and wrong shapes, with the most likely cause.
        """
        check_dtype_and_device(dtype, device)
        files = checkpoint.find(source)
        tokenizer = Tokenizer.from_file(files.folder)
        if tokenizer.image_token_id != files.config.image_token:
            raise ValueError(
                f"the tokenizer of {files.folder} has <image> at {tokenizer.image_token_id}, the model expects it "
                f"at {files.config.image_token}: they do not belong together"
            )
        decoder = None if masks is None else MaskAutoencoder.from_published(masks).to(device)
        with torch.device("meta"):  # initial weights, replaced at once, need no time and no memory there
            model = PaliGemmaModel(files.config)
        checkpoint.load(model, files.tensors(), dtype, files.folder)
        return cls(model.to(device).eval(), tokenizer, decoder)

    @classmethod
    def from_weights(
        cls,
        name_or_path: str | Path = "paligemma",
        masks: str | Path | None = "masks",
        device: str | torch.device = "cpu",
    ) -> "PaliGemma":
        """Load the tiny model that `python -m helpers.vlm.train` trained.

        Raises:
            FileNotFoundError, ValueError: as `load_weights`; also for the weights of another network, and for a mask
                autoencoder with another codebook than in training.
        """
        config = read_config(name_or_path)
        if "language" not in config:
            raise ValueError(
                f"the weights {name_or_path} belong to another network: their config has {', '.join(config)}"
            )
        if masks is not None and config.get("masks", "") not in ("", read_metadata(masks)["sha256"]):
            raise ValueError(
                f"{name_or_path} was trained with the codebook of other masks than {masks}: train it again, "
                f"{TRAINING_COMMANDS['paligemma']}"
            )
        vision = SiglipConfig(**config["vision"])
        config_class = Gemma2Config if "window" in config["language"] else GemmaConfig
        language = config_class(**config["language"])
        model = PaliGemmaModel(PaliGemmaConfig(vision, language, config["image_token"]))
        load_weights(model, name_or_path)
        decoder = None if masks is None else MaskAutoencoder.from_weights(masks).to(device)
        tokenizer = Tokenizer.from_json(config["tokenizer"])
        return cls(model.to(device).eval(), tokenizer, decoder, tuple(config.get("tasks", TASKS)))

    # --- text -------------------------------------------------------------------------------------------------------

    def generate(
        self,
        images: Sequence[Any],
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 32,
        progress: bool = False,
    ) -> list[str]:
        """Answer prompts in PaliGemma's format: "caption en", "answer en where is the cat?", "detect cat".

        Args:
            images: one per prompt; see `helpers.vlm.processor.preprocess_image`.
            max_new_tokens: of an answer.
            temperature, top_p: see `helpers.vlm.decoding.sample_token`; temperature 0 takes the most likely token.
            seed: of the sampling; the result also depends on the other rows of a batch.
            batch_size: rows at a time.
            progress: show a bar.

        Raises:
            TypeError, ValueError, FileNotFoundError: for unsuitable images and prompts; see `Processor`.
        """
        from tqdm.auto import trange

        self.processor.check_counts(images, prompts)
        if min(max_new_tokens, batch_size) < 1:
            raise ValueError(f"max_new_tokens and batch_size must be at least 1, got {max_new_tokens} and {batch_size}")
        check_sampling(temperature, top_p)
        for prompt in prompts:
            self._check_task(prompt)
        if len(prompts) > batch_size:  # what is wrong with a later batch shows before the first is answered
            self.processor.tokenize(prompts)
            for image in images:
                check_image(image)
        generator = self._generator(seed)
        texts = []
        for start in trange(0, len(prompts), batch_size, unit=" batches", disable=not progress):
            rows = slice(start, start + batch_size)
            batch = self.processor(images[rows], prompts[rows]).to(self.device)
            steps = generate(
                self.model,
                batch,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                generator=generator,
            )
            ids = torch.stack([step.ids for step in steps], dim=1)  # (B, new tokens)
            texts += [self.tokenizer.decode(row) for row in ids.cpu()]
        return texts

    def stream(
        self,
        image: Any,
        prompt: str,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yield an answer in pieces as it is generated. Arguments and errors as for `generate`."""
        self._check_task(prompt)
        batch = self.processor([image], [prompt]).to(self.device)
        steps = generate(
            self.model,
            batch,
            eos_token_id=self.tokenizer.eos_token_id,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            generator=self._generator(seed),
        )
        ids: list[int] = []
        yielded = ""
        for step in steps:
            ids.append(int(step.ids))
            text = self.tokenizer.decode(ids)
            if text != yielded and not text.endswith("\ufffd"):  # an incomplete character waits for its other bytes
                yield text[len(yielded) :]
                yielded = text

    def answer(self, image: Any, question: str | Sequence[str], **options: Any) -> str | list[str]:
        """Answer a question in English. Options and errors as for `generate`."""
        texts = self._generate_all(image, question, "answer en {}", **options)
        return texts if _is_list(image) else texts[0]

    def caption(self, image: Any, **options: Any) -> str | list[str]:
        """Describe an image in English. Options and errors as for `generate`."""
        texts = self._generate_all(image, "", "caption en", **options)
        return texts if _is_list(image) else texts[0]

    @overload
    def detect(self, image: list[Any], thing: str | Sequence[str], **options: Any) -> list[list[Detection]]: ...
    @overload
    def detect(self, image: Any, thing: str | Sequence[str], **options: Any) -> list[Detection]: ...
    def detect(self, image: Any, thing: str | Sequence[str], **options: Any) -> list[Detection] | list[list[Detection]]:
        """Detect an object, or several: "left eye ; right eye". Options as for `generate`.

        In a list of images, one whose answer cannot be read gets an empty list, with a warning.

        Raises:
            ValueError: for an answer about a single image that is not a list of boxes, and as `generate`.
        """
        texts = self._generate_all(image, thing, "detect {}", **{"max_new_tokens": MAX_LOCATION_TOKENS, **options})
        if not _is_list(image):
            return parse(texts[0])
        return [_or_nothing(partial(parse, text), index) for index, text in enumerate(texts)]

    @overload
    def segment(self, image: list[Any], thing: str | Sequence[str], **options: Any) -> list[list[Segment]]: ...
    @overload
    def segment(self, image: Any, thing: str | Sequence[str], **options: Any) -> list[Segment]: ...
    def segment(self, image: Any, thing: str | Sequence[str], **options: Any) -> list[Segment] | list[list[Segment]]:
        """Segment an object: box and mask. Options as for `generate`.

        Raises:
            ValueError: without a mask decoder, for an answer about a single image without masks, and as `detect`.
        """
        self._mask_decoder()
        texts = self._generate_all(image, thing, "segment {}", **{"max_new_tokens": MAX_LOCATION_TOKENS, **options})
        if not _is_list(image):
            return self.decode_masks(texts[0], image)
        return [_or_nothing(partial(self.decode_masks, text, image[index]), index) for index, text in enumerate(texts)]

    def decode_masks(self, text: str, image: Any) -> list[Segment]:
        """The segments in the text that answers a `segment` prompt about an image.

        Objects without a mask are left out, with a warning, where others have one.

        Raises:
            ValueError: without a mask decoder, for a text without masks, and as `parse`.
        """
        masks = self._mask_decoder()
        height, width = image_size(image)
        detections = parse(text)
        with_mask = [detection for detection in detections if detection.codes is not None]
        segments = []
        for detection in detections:
            if detection.codes is None:
                problem = f"the answer has a box of {detection.name!r} but no mask"
                if not with_mask:
                    raise ValueError(problem)
                warnings.warn(f"an object is left out: {problem}", stacklevel=3)
                continue
            with torch.inference_mode():
                mask = masks.decode(torch.tensor([detection.codes], device=self.device))[0].cpu()
            segments.append(Segment(detection.name, detection.box, paste_mask(mask, detection.box, height, width)))
        return segments

    def check_prompt(self, prompt: str) -> None:
        """Check, before any image is read, that the model has the task and the words of a prompt.

        Raises:
            TypeError, ValueError: as `generate`; also for masks without their decoder.
        """
        self._check_task(prompt)
        self.processor.tokenize([prompt])
        if prompt.split()[:1] == ["segment"]:
            self._mask_decoder()

    # --- inside -----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.projector.weight.device

    def _generate_all(self, image: Any, text: str | Sequence[str], template: str, **options: Any) -> list[str]:
        """The answers for one image or a list; one text serves all images."""
        images = image if _is_list(image) else [image]
        texts = [text] * len(images) if isinstance(text, str) else text
        return self.generate(images, [template.format(text) for text in texts], **options)

    def _mask_decoder(self) -> MaskAutoencoder:
        """The decoder of masks. Raises ValueError without one."""
        if self.masks is None:
            raise ValueError(
                "masks need the decoder of <seg> tokens: pass masks= (gs://big_vision/paligemma/vae-oid.npz)"
            )
        return self.masks

    def _check_task(self, prompt: Any) -> None:
        first = prompt.split()[0] if isinstance(prompt, str) and prompt.split() else ""
        if self.tasks is not None and first not in self.tasks:
            raise ValueError(
                f"unknown task {first!r}: this model was trained on {', '.join(self.tasks)} "
                f"(caption en, answer en ..., detect ..., segment ...); got {prompt!r}"
            )

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)


def _is_list(image: Any) -> bool:
    return isinstance(image, list | tuple)


def _or_nothing(read: Callable[[], list[Located]], index: int) -> list[Located]:
    """What `read` returns about the image of this index, or nothing, with a warning, where it raises ValueError."""
    try:
        return read()
    except ValueError as error:
        warnings.warn(f"the answer about image {index} cannot be read: {error}", stacklevel=3)
        return []


def image_size(image: Any) -> tuple[int, int]:
    """Height and width of an image, which is a tensor, a path, or a PIL image after its EXIF rotation."""
    from PIL import Image, ImageOps

    if isinstance(image, Tensor):
        return image.shape[-2], image.shape[-1]
    if isinstance(image, str | Path):
        with Image.open(image) as file:
            return image_size(file)
    width, height = ImageOps.exif_transpose(image).size
    return height, width


def save_model(
    model: PaliGemmaModel,
    tokenizer: Tokenizer,
    path: str | Path,
    metadata: dict[str, str],
    masks: str = "",
    tasks: Sequence[str] = TASKS,
) -> None:
    """Write the weights (fp16) with config, tokenizer, and the checksum of the mask autoencoder used in training.

    Args:
        tasks: the first words of the prompts that the model was trained on.
    """
    config = {
        "vision": asdict(model.config.vision),
        "language": asdict(model.config.language),
        "image_token": model.config.image_token,
        "tokenizer": tokenizer.to_json(),
        "masks": masks,
    }
    if tuple(tasks) != TASKS:
        config["tasks"] = list(tasks)
    save_with_config(model, config, path, metadata)
