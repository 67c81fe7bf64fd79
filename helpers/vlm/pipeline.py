"""PaliGemma in use: a picture and a prompt to words, boxes and masks.

Every method takes one picture and gives one result, or a list and gives a list. Alphabet: H W of a picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from helpers.vlm import checkpoint
from helpers.vlm.boxes import Box, Detection, parse, pasted
from helpers.vlm.decoding import generate
from helpers.vlm.gemma import GemmaConfig
from helpers.vlm.mask_codes import MaskAutoencoder
from helpers.vlm.paligemma import PaliGemmaConfig, PaliGemmaModel
from helpers.vlm.processor import Processor, Tokenizer
from helpers.vlm.siglip import SiglipConfig
from helpers.weights import TRAINING_COMMANDS, load_weights, read_config, read_metadata, save_with_config

TASKS = ("caption", "answer", "detect", "segment")
PLACES = 256  # most tokens of an answer that is places: an object with its mask takes more than twenty


class Segment(NamedTuple):
    """An object and where exactly it is."""

    name: str
    box: Box
    mask: Tensor  # (H, W) in [0, 1], how likely each pixel belongs to it


class PaliGemma:
    """Model, processor, and the mask decoder where there is one."""

    def __init__(
        self,
        model: PaliGemmaModel,
        tokenizer: Tokenizer,
        masks: MaskAutoencoder | None = None,
        tasks: Sequence[str] | None = None,
    ):
        """
        Args:
            masks: decodes `<seg>` tokens; None: `segment` says what is missing.
            tasks: first words that it understands; None: any prompt.
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
        """Published weights, strict.

        Args:
            source: a folder with config.json, *.safetensors and tokenizer.json, or a hub repository such as
                "google/paligemma-3b-mix-224" ("mix" answers free prompts; "pt" is for fine-tuning and knows its tasks).
            masks: the file vae-oid.npz, for `segment`.
            dtype, device: what to compute in, and where: 11.7 GB in float32, 5.9 in bfloat16.

        Raises:
            FileNotFoundError: where something is not there; it says what was looked for.
            ValueError: for tensors that are missing, left over or of another shape, with the likeliest cause.
        """
        found = checkpoint.find(source)
        tokenizer = Tokenizer.from_file(found.folder)
        if tokenizer.image != found.config.image_token:
            raise ValueError(
                f"the tokenizer of {found.folder} has <image> at {tokenizer.image}, the model expects it "
                f"at {found.config.image_token}: they do not belong together"
            )
        decoder = None if masks is None else MaskAutoencoder.from_published(masks).to(device)
        with torch.device("meta"):  # no time and no memory for first weights that are replaced at once
            model = PaliGemmaModel(found.config)
        checkpoint.load(model, found.tensors(), dtype)
        return cls(model.to(device).eval(), tokenizer, decoder)

    @classmethod
    def from_weights(
        cls,
        name_or_path: str | Path = "paligemma",
        masks: str | Path | None = "masks",
        device: str | torch.device = "cpu",
    ) -> "PaliGemma":
        """The tiny model that `python -m helpers.vlm.train` trained.

        Raises:
            FileNotFoundError, ValueError: as `load_weights`, for the weights of another network, and for masks of
                another codebook than the model learned to write.
        """
        about = read_config(name_or_path)
        if "language" not in about:
            raise ValueError(f"the weights {name_or_path} belong to another network: they tell {', '.join(about)}")
        if masks is not None and about.get("masks", "") not in ("", read_metadata(masks)["sha256"]):
            raise ValueError(
                f"{name_or_path} learned to write the codes of other masks than {masks}: train it again, "
                f"{TRAINING_COMMANDS['paligemma']}"
            )
        towers = SiglipConfig(**about["vision"]), GemmaConfig(**about["language"])
        model = PaliGemmaModel(PaliGemmaConfig(*towers, about["image_token"]))
        load_weights(model, name_or_path)
        decoder = None if masks is None else MaskAutoencoder.from_weights(masks).to(device)
        return cls(model.to(device).eval(), Tokenizer.from_json(about["tokenizer"]), decoder, TASKS)

    # --- words ------------------------------------------------------------------------------------------------------

    def write(
        self,
        pictures: Sequence[Any],
        prompts: Sequence[str],
        *,
        limit: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 32,
        progress: bool = False,
    ) -> list[str]:
        """Answers to prompts in PaliGemma's own form: "caption en", "answer en where is the cat?", "detect cat".

        Args:
            pictures: one per prompt; see `helpers.vlm.processor.picture_tensor`.
            limit: most tokens of an answer.
            temperature, top_p, seed: see `helpers.vlm.decoding.choose`; temperature 0 takes the likeliest.
            seed: of the draws; other rows in a batch change them.
            progress: show a bar.

        Raises:
            TypeError, ValueError, FileNotFoundError: for bad pictures and prompts; see `Processor`.
        """
        from tqdm.auto import trange

        self.processor.matched(pictures, prompts)
        if min(limit, batch_size) < 1:
            raise ValueError(f"limit and batch_size are 1 or more, got {limit} and {batch_size}")
        for prompt in prompts:
            self._known_task(prompt)
        generator = self._generator(seed)
        answers = []
        for start in trange(0, len(prompts), batch_size, unit=" batches", disable=not progress):
            rows = slice(start, start + batch_size)
            batch = self.processor(pictures[rows], prompts[rows]).to(self.device)
            steps = generate(
                self.model,
                batch,
                end=self.tokenizer.end,
                padding=self.tokenizer.padding,
                limit=limit,
                temperature=temperature,
                top_p=top_p,
                generator=generator,
            )
            ids = torch.stack([step.ids for step in steps], dim=1)  # (B, tokens written)
            answers += [self.tokenizer.decode(row) for row in ids.cpu()]
        return answers

    def stream(
        self, picture: Any, prompt: str, *, limit: int = 64, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
    ) -> Iterator[str]:
        """An answer in pieces, each as soon as it is written. Arguments and errors as for `write`."""
        self._known_task(prompt)
        batch = self.processor([picture], [prompt]).to(self.device)
        ids = []
        told = ""
        for step in generate(
            self.model,
            batch,
            end=self.tokenizer.end,
            limit=limit,
            temperature=temperature,
            top_p=top_p,
            generator=self._generator(seed),
        ):
            ids.append(int(step.ids))
            text = self.tokenizer.decode(ids)
            if text != told and not text.endswith("\ufffd"):  # half a letter is told with its other half
                yield text[len(told) :]
                told = text

    def answer(self, picture: Any, question: str | Sequence[str], **options: Any) -> str | list[str]:
        """What it says to a question in English. Options and errors as for `write`."""
        return self._one_or_more(picture, question, "answer en {}", **options)

    def caption(self, picture: Any, **options: Any) -> str | list[str]:
        """What it sees, in English. Options and errors as for `write`."""
        return self._one_or_more(picture, "", "caption en", **options)

    def detect(
        self, picture: Any, thing: str | Sequence[str], **options: Any
    ) -> list[Detection] | list[list[Detection]]:
        """Boxes of a thing, or of several: "left eye ; right eye".

        Raises:
            ValueError: for an answer that is no list of boxes, and as `write`.
        """
        told = self._one_or_more(picture, thing, "detect {}", **{"limit": PLACES, **options})
        return parse(told) if isinstance(told, str) else [_parsed(text, i) for i, text in enumerate(told)]

    def segment(self, picture: Any, thing: str | Sequence[str], **options: Any) -> list[Segment] | list[list[Segment]]:
        """Boxes and masks of a thing.

        Raises:
            ValueError: without a mask decoder, for an answer without masks, and as `detect`.
        """
        if self.masks is None:
            raise ValueError(
                "masks need the decoder of <seg> tokens: pass masks= (gs://big_vision/paligemma/vae-oid.npz)"
            )
        told = self._one_or_more(picture, thing, "segment {}", **{"limit": PLACES, **options})
        if isinstance(told, str):
            return [self._with_mask(found, picture) for found in parse(told)]
        return [[self._with_mask(found, picture[i]) for found in _parsed(text, i)] for i, text in enumerate(told)]

    # --- inside -----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.projector.weight.device

    def _one_or_more(self, picture: Any, text: str | Sequence[str], form: str, **options: Any) -> str | list[str]:
        several = isinstance(picture, list | tuple)
        pictures = picture if several else [picture]
        texts = [text] * len(pictures) if isinstance(text, str) else text
        told = self.write(pictures, [form.format(one) for one in texts], **options)
        return told if several else told[0]

    def _with_mask(self, found: Detection, picture: Any) -> Segment:
        if found.codes is None:
            raise ValueError(f"the answer has a box of {found.name!r} and no mask")
        height, width = picture.shape[-2:] if isinstance(picture, Tensor) else picture_size(picture)
        with torch.inference_mode():
            mask = self.masks.decode(torch.tensor([found.codes], device=self.device))[0].cpu()
        return Segment(found.name, found.box, pasted(mask, found.box, height, width))

    def _known_task(self, prompt: Any) -> None:
        first = prompt.split()[0] if isinstance(prompt, str) and prompt.split() else ""
        if self.tasks is not None and first not in self.tasks:
            raise ValueError(
                f"unknown task {first!r}: this model was taught {', '.join(self.tasks)} "
                f"(caption en, answer en ..., detect ..., segment ...); got {prompt!r}"
            )

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)


def _parsed(answer: str, number: int) -> list[Detection]:
    try:
        return parse(answer)
    except ValueError as error:
        raise ValueError(f"the answer about picture {number}: {error}") from error


def picture_size(picture: Any) -> tuple[int, int]:
    """Height and width of a picture that is a path or Pillow's, as it is looked at: upright."""
    from PIL import Image, ImageOps

    if isinstance(picture, str | Path):
        with Image.open(picture) as opened:
            return picture_size(opened)
    return ImageOps.exif_transpose(picture).size[::-1]


def save_model(
    model: PaliGemmaModel, tokenizer: Tokenizer, path: str | Path, metadata: dict[str, str], masks: str = ""
) -> None:
    """Write a model (fp16) with its sizes, its tokenizer, and the checksum of the codebook that its `<seg>` are of."""
    about = {
        "vision": asdict(model.config.vision),
        "language": asdict(model.config.language),
        "image_token": model.config.image_token,
        "tokenizer": tokenizer.to_json(),
        "masks": masks,
    }
    save_with_config(model, about, path, metadata)
