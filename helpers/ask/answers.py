"""From a question to its answer: text, and where the prompt asks for them boxes and masks, drawn onto the image.

Every answer is computed alone: the numbers of a network depend in their last bits on what else is in the batch.
"""

import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from helpers.ask.images import InputImage, open_image
from helpers.ask.models import Model, load_model
from helpers.data.images import ImageSource
from helpers.show.annotate import annotate
from helpers.vlm.boxes import Detection, parse
from helpers.vlm.decoding import check_sampling
from helpers.vlm.pipeline import MAX_LOCATION_TOKENS, TASKS, Segment

CAPTION = "caption en"
QUESTION = "answer en "
LOCATING = ("detect", "segment")  # tasks whose answers are boxes, and boxes with masks
MAX_TOKENS = 64  # of other answers
# prompts in PaliGemma's own format: a task, for some a language of two letters, for some what it is about
PROMPT = re.compile(r"(detect|segment) .+|(answer|question) [a-z]{2} .+|(caption|cap|describe) [a-z]{2}|ocr")


class Sampling(NamedTuple):
    """How tokens are chosen; the defaults always take the most likely one."""

    max_tokens: int | None = None  # of an answer; None: 64, with boxes 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What a model says about an image."""

    model: str
    name: str  # of the image's file, "" without a file
    image: Image.Image  # upright, in RGB
    prompt: str  # in PaliGemma's format
    text: str  # with <loc> and <seg> tokens where there are boxes and masks
    objects: list[Detection] | list[Segment]  # boxes as fractions of the image's sides; none for other prompts

    @property
    def is_located(self) -> bool:
        """Whether the prompt asks for boxes or masks."""
        return self.prompt.split()[0] in LOCATING

    def boxes(self) -> list[tuple[str, tuple[float, float, float, float]]]:
        """The name of every object, and its box in pixels: left, top, right, bottom."""
        width, height = self.image.size
        return [
            (each.name, (each.box.x0 * width, each.box.y0 * height, each.box.x1 * width, each.box.y1 * height))
            for each in self.objects
        ]

    def masks(self) -> list[Image.Image]:
        """The mask of every segmented object, of the image's size: white inside, black outside."""
        masks = [each.mask for each in self.objects if isinstance(each, Segment)]
        return [Image.fromarray((mask.numpy() > 0.5).astype(np.uint8) * 255) for mask in masks]

    def draw(self) -> Image.Image:
        """A copy of the image, enlarged if it is small, with boxes, masks and names on it."""
        return annotate(self.image, self.objects)


def ask(
    model: str | Model,
    images: ImageSource | Sequence[ImageSource],
    questions: str | Sequence[str] = CAPTION,
    *,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> list[Answer]:
    """Ask every question about every image: `ask("paligemma", "photo.jpg", "what colour is the fur?")`.

    Args:
        model: a name, folder or repository, see `load_model`; or the result of `load_model`, to load it only once.
        images: one or several files or PIL images.
        questions: one or several; also prompts in PaliGemma's format such as "detect left eye ; nose", see `to_prompt`.
        max_tokens: of an answer; None: 64, with boxes or masks 256.
        temperature, top_p: see `helpers.vlm.decoding.sample_token`; temperature 0 takes the most likely token.
        seed: of the sampling; each answer starts with it.
        progress: show a bar.

    Returns:
        all answers about the first image, then those about the second, ...

    Raises:
        FileNotFoundError, ValueError, TypeError: for bad arguments, before any answer is computed.
    """
    from tqdm.auto import tqdm

    loaded = model if isinstance(model, Model) else load_model(model)
    sampling = Sampling(max_tokens, temperature, top_p, seed)
    sources = [images] if isinstance(images, ImageSource) else list(images)
    texts = [questions] if isinstance(questions, str) else list(questions)
    prompts = check_request(loaded, texts, sampling)
    opened = [open_image(source) for source in sources]
    warn_of_limits(loaded, opened, prompts)
    pairs = list(itertools.product(opened, prompts))
    bar = tqdm(pairs, desc="asking", unit=" questions", leave=False, disable=None if progress else True)
    return [answer_prompt(loaded, image, prompt, sampling) for image, prompt in bar]


def to_prompt(question: str, tasks: Sequence[str] = ()) -> str:
    """A question in PaliGemma's format: "answer en what animal is this?".

    What has this format stays: "caption en", "detect nose ; left eye", "segment face", "answer fr ...", "describe en".
    "caption" is short for "caption en", and objects may be separated by ";" with or without spaces.

    Args:
        question: what someone typed.
        tasks: first words of prompts that the model has beyond PaliGemma's.

    Raises:
        TypeError, ValueError: for what is no text, and an empty one.
    """
    if not isinstance(question, str):
        raise TypeError(f"a question must be a string, got {type(question).__name__}")
    text = " ".join(question.split())
    if not text:
        raise ValueError("a question is empty: ask something, such as what animal is this?")
    if text == "caption":
        return CAPTION
    if text in LOCATING:
        raise ValueError(f"{text} what? Write the object behind it, such as {text} face")
    if text.split()[0] in LOCATING:
        return " ; ".join(filter(None, map(str.strip, text.split(";"))))
    is_prompt = PROMPT.fullmatch(text) or text.split()[0] in tasks
    return text if is_prompt else f"{QUESTION}{text}"


def check_request(model: Model, questions: Sequence[str], sampling: Sampling) -> list[str]:
    """The prompts of the questions. Raises TypeError or ValueError for what the model cannot be asked."""
    tasks = set(model.assistant.tasks or ()) - set(TASKS)  # of a training on someone's own prompts
    prompts = [to_prompt(question, sorted(tasks)) for question in questions]
    if model.is_shipped:  # its vocabulary has no capitals
        prompts = [prompt.lower() for prompt in prompts]
    check_sampling(sampling.temperature, sampling.top_p)
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {sampling.max_tokens}")
    for prompt in prompts:
        model.assistant.check_prompt(prompt)
    return prompts


def warn_of_limits(model: Model, images: Sequence[InputImage], prompts: Sequence[str]) -> None:
    """Warn where the shipped model is asked about what it was not trained on: it answers all the same."""
    if not model.is_shipped:
        return
    if not all(image.is_example for image in images):
        warnings.warn(
            f"{model.name} was trained on synthetic faces alone, and knows nothing else: about any other image its "
            "answers are guesses",
            stacklevel=3,
        )
    for prompt in prompts:
        if unknown := model.unknown_objects(prompt):
            warnings.warn(
                f"{model.name} was trained to detect left eye, right eye and nose, and to segment face: "
                f"what it answers to {prompt.split()[0]} {' ; '.join(unknown)} is a guess",
                stacklevel=3,
            )


def answer_prompt(
    model: Model, image: InputImage, prompt: str, sampling: Sampling, on_text: Callable[[str], Any] | None = None
) -> Answer:
    """Answer one prompt about one image; `on_text` gets the text piece by piece as it is generated.

    Where the text has boxes or masks that cannot be read, it warns and returns no objects.
    """
    task = prompt.split()[0]
    pieces = []
    for piece in model.assistant.stream(
        image.image,
        prompt,
        max_new_tokens=sampling.max_tokens or (MAX_LOCATION_TOKENS if task in LOCATING else MAX_TOKENS),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
    ):
        pieces.append(piece)
        if on_text is not None:
            on_text(piece)
    text = "".join(pieces)
    objects: Any = []
    if task in LOCATING:
        read = parse if task == "detect" else partial(model.assistant.decode_masks, image=image.image)
        try:
            objects = read(text)
        except ValueError as error:
            warnings.warn(f"the answer to {prompt!r} about {image.name or 'the image'}: {error}", stacklevel=2)
    return Answer(model.name, image.name, image.image, prompt, text, objects)
