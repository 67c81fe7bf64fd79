"""Ask PaliGemma about images: it answers questions, writes captions, and draws boxes and masks onto a copy."""

import argparse
import itertools
import json
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tqdm.auto import tqdm

from helpers.ask.answers import CAPTION, LOCATING, Answer, Sampling, answer_prompt, check_request, warn_of_limits
from helpers.ask.images import EXAMPLES, InputImage, open_image
from helpers.ask.models import SHIPPED, Model, load_model
from helpers.ask.output import (
    describe_objects,
    heading,
    to_record,
    write_drawing,
    write_example,
    write_masks,
)
from helpers.devices import DEVICES
from helpers.training.arguments import (
    make_folder,
    non_negative_float,
    non_negative_int,
    positive_int,
    probability,
    seed_number,
)
from helpers.weights.pretrained import PRECISIONS

IMAGE_ENDINGS = re.compile(r".*\.(jpe?g|png|webp|bmp|tiff?|gif|heic|heif|avif|jxl|svg|pdf)", re.IGNORECASE)
DEMONSTRATION = [
    CAPTION,
    "what colour is the fur?",
    "is this a dog?",
    "detect left eye ; right eye ; nose",
    "segment face",
]
EXAMPLE_LINES = """examples:
  python -m helpers.ask
  python -m helpers.ask --example 7 "what colour are the eyes?" "does it have a mane?"
  python -m helpers.ask --example 7 --detect "left eye; right eye" --segment face
  python -m helpers.ask photos/*.jpg --caption --json --model google/paligemma-3b-mix-224

prompts in PaliGemma's own format are questions, too: "caption en", "detect nose ; left eye", "segment face", or with
published weights "answer fr quel animal est-ce ?". The model that ships knows synthetic faces alone, and 70 words,
which the error message lists when a question has another one."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.ask",
        description=__doc__,
        epilog=EXAMPLE_LINES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("arguments", nargs="*", metavar="IMAGE|QUESTION", help="files of images and questions, in any order")
    add(
        "--example",
        dest="examples",
        action="append",
        default=[],
        type=non_negative_int,
        metavar="N",
        help=f"ask about a synthetic face, 0 to {EXAMPLES - 1}; without any image: 0",
    )
    add("--caption", dest="tasks", action="append_const", const=CAPTION, help="describe the image")
    add(
        "--detect",
        dest="tasks",
        action="append",
        type="detect {}".format,
        metavar="THING",
        help='draw a box around it; several: "left eye; nose"',
    )
    add(
        "--segment",
        dest="tasks",
        action="append",
        type="segment {}".format,
        metavar="THING",
        help="draw its box and its mask, and write the mask as well",
    )
    add("--model", default=SHIPPED, help=f"{SHIPPED}, a folder, or OWNER/NAME on the hub (default: {SHIPPED})")
    add("--masks", type=Path, metavar="FILE", help="vae-oid.npz, with which published weights can --segment")
    add("--max-tokens", type=positive_int, metavar="N", help="of an answer (default: 64, with boxes 256)")
    add("--temperature", type=non_negative_float, default=0.0, help="above 0: sample the tokens (default: 0)")
    add("--top-p", type=probability, default=1.0, help="sample from the likeliest tokens that reach this (default: 1)")
    add("--seed", type=seed_number, default=0, help="of the sampling (default: 0)")
    add("--device", choices=["auto", *DEVICES], default="cpu", help="auto: the best one there is (default: cpu)")
    add("--precision", choices=PRECISIONS, default="fp32", help="of published weights")
    add("--json", action="store_true", help="print a line of JSON for every answer, boxes in pixels")
    add("--out", type=Path, default=Path("answers"), metavar="FOLDER", help="of the drawings (default: answers)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, 1 after an error, which is printed on stderr, and 130 after Ctrl-C."""
    options = build_parser().parse_intermixed_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            return _ask(options)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the answers above are complete", file=sys.stderr)
        return 130


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files of images, and questions: a file is what exists, or what looks like the name of one."""
    paths = [text for text in arguments if _is_path(text)]
    return paths, [text for text in arguments if not _is_path(text)]


def _is_path(text: str) -> bool:
    with suppress(OSError, ValueError):  # a long question is no possible name
        if text and Path(text).expanduser().exists():
            return True
    return bool(IMAGE_ENDINGS.fullmatch(text)) or ("/" in text and " " not in text)


def _ask(options: argparse.Namespace) -> int:
    paths, questions = split_arguments(options.arguments)
    questions += options.tasks or []
    is_demonstration = not (paths or options.examples or questions)
    if is_demonstration:
        questions = list(DEMONSTRATION)
    if options.model != SHIPPED:
        print(f"loading {options.model}", file=sys.stderr)
    model = load_model(options.model, masks=options.masks, device=options.device, precision=options.precision)
    sampling = Sampling(options.max_tokens, options.temperature, options.top_p, options.seed)
    prompts = check_request(model, questions or [CAPTION], sampling)
    images = _open_images(options, paths)
    warn_of_limits(model, images, prompts)
    if any(prompt.split()[0] in LOCATING for prompt in prompts):
        make_folder(options.out, "--out")
    for image, prompt in itertools.product(images, prompts):
        before = heading(image.name, prompt, images, prompts)
        answer = _answer(model, image, prompt, sampling, None if options.json else before)
        _print(answer, sampling, options, before)
    if is_demonstration:
        print('To ask about an image of your own: python -m helpers.ask photo.jpg "is this a cat?"', file=sys.stderr)
    return 0


def _open_images(options: argparse.Namespace, paths: Sequence[str]) -> list[InputImage]:
    """The images of the command line; examples are written as files, to be seen and to be used again."""
    images = [open_image(path) for path in paths]
    numbers = options.examples
    if not paths and not numbers:
        numbers = [0]
    if numbers:
        make_folder(options.out, "--out")
    files = [write_example(options.out, number) for number in numbers]
    if files:
        print(f"synthetic face: {', '.join(map(str, files))}", file=sys.stderr)
    return images + [open_image(path) for path in files]


def _answer(model: Model, image: InputImage, prompt: str, sampling: Sampling, before: str | None) -> Answer:
    """Answer a prompt; on a terminal a text appears as it is generated, behind `before`, unless that is None."""
    if before is not None and prompt.split()[0] not in LOCATING and sys.stdout.isatty():
        print(before, end="", flush=True)
        answer = answer_prompt(model, image, prompt, sampling, lambda text: print(text, end="", flush=True))
        print()
        return answer
    with tqdm(desc=prompt, unit=" tokens", leave=False, disable=None) as bar:
        return answer_prompt(model, image, prompt, sampling, lambda _: bar.update(1))


def _print(answer: Answer, sampling: Sampling, options: argparse.Namespace, before: str) -> None:
    """Print an answer that is not yet there to be read, and write its drawings."""
    record = to_record(answer, sampling)
    files = []
    if answer.objects:
        files = [write_drawing(options.out, answer, record), *write_masks(options.out, answer)]
    if options.json:
        names = {"drawing": str(files[0]), "masks": list(map(str, files[1:]))} if files else {}
        print(json.dumps(record | names, ensure_ascii=False), flush=True)
    elif answer.is_located:
        title = [before.strip()] if before else []
        print("\n".join([*title, *describe_objects(answer), *map(str, files)]), flush=True)
    elif not sys.stdout.isatty():
        print(f"{before}{answer.text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
