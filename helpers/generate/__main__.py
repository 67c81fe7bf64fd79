"""Generate images from prompts: PNGs that remember all their settings, and can be repeated from them."""

import argparse
import random
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from helpers.devices import DEVICES
from helpers.files import file_name, write_new
from helpers.generate.images import (
    generate_all,
    load_recorded,
    make_settings,
    recorded_options,
    repeat,
)
from helpers.generate.models import Model, describe, load_model, shipped_models
from helpers.generate.output import animation, tile
from helpers.generate.settings import Settings, encode_png, read_record
from helpers.training.arguments import (
    make_folder,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    probability,
)
from helpers.training.folder import TRAINED_WEIGHTS
from helpers.weights.pretrained import PRECISIONS

DEFAULT_MODEL = "tiny_sd_animals_128"
MOST_COLUMNS = 8
EXAMPLES = """examples:
  python -m helpers.generate cat dog wild --count 4 --grid
  python -m helpers.generate "a striped orange cat with green eyes" --model sd3 --animation
  python -m helpers.generate "a grey dog" --model sd1 --init photo.jpg --strength 0.6
  python -m helpers.generate "a red fox" --model v1-5-pruned.safetensors --steps 30
  python -m helpers.generate --again generated/tiny_sd_animals_128-cat-0.png
  python -m helpers.generate --again generated/tiny_sd_animals_128-cat-0.png --steps 50"""


def build_parser() -> argparse.ArgumentParser:
    """The command line; an option that is not set takes the model's default."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.generate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("prompts", nargs="*", metavar="PROMPT", help="captions, or classes for a model without captions")
    add("--prompts-file", type=Path, metavar="FILE", help="further prompts, one in a line; # begins a comment")
    add("--list", action="store_true", help="list the models that ship, and end")
    add("--again", type=Path, metavar="IMAGE.png", help="repeat this image, bit by bit, or with what else is set")
    add("--model", help=f"a name of --list, a file, a folder, or sd1:OWNER/NAME on the hub (default: {DEFAULT_MODEL})")
    add("--count", type=positive_int, default=1, help="images per prompt")
    add("--seed", type=_seed, help="of the first image, the next ones take the next (default: 0); or: random")
    add("--same-seed", action="store_true", help="every prompt begins with --seed")
    add("--steps", type=positive_int, help="of the sampler")
    add("--guidance-scale", type=non_negative_float, metavar="SCALE", help="1: none")
    add("--sampler", help="ddim, dpm_solver_pp_2m, ...")
    add(
        "--sigmas",
        metavar="LEVELS",
        help="noise levels of the steps: karras, exponential, or numbers as 14.6,5,1.5,0.3",
    )
    add("--churn", type=non_negative_float, metavar="S", help="fresh noise before every step of euler and heun")
    add("--negative-prompt", metavar="PROMPT", help="what guidance moves away from")
    add("--size", type=_size, metavar="SIZE", help="pixels: 512, or 768x512 for width x height")
    add("--clip-skip", type=non_negative_int, metavar="LAYERS", help="leave out the text encoder's last layers")
    add("--shift", type=positive_float, help="of the times towards noise")
    add("--weighted-prompts", action="store_true", help="(word:1.3) is a weight; a prompt may have any length")
    add("--init", type=Path, metavar="IMAGE", help="image to image: start from this one, cropped and resized")
    add("--strength", type=probability, help="how much of --init is generated anew, 0 to 1")
    add("--mask", type=Path, metavar="IMAGE", help="inpainting: only what is white here is generated anew")
    add("--device", choices=["auto", *DEVICES], default="cpu", help="auto: the best one there is (default: cpu)")
    add("--precision", choices=PRECISIONS, default="fp32", help="of a published checkpoint")
    add("--out", type=Path, default=Path("generated"), metavar="FOLDER", help="default: generated")
    add("--grid", action="store_true", help="also write all images side by side")
    add("--columns", type=positive_int, metavar="IMAGES", help="in a row of --grid and --animation")
    add("--animation", action="store_true", help="also write how they emerge from noise, as an animated WebP")
    return parser


def _seed(text: str) -> int:
    return random.SystemRandom().randrange(2**32) if text == "random" else non_negative_int(text)


def _size(text: str) -> tuple[int, int]:
    """Width and height."""
    width, cross, height = text.lower().replace("×", "x").partition("x")
    return positive_int(width), positive_int(height if cross else width)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, 1 after an error, which is printed on stderr, and 130 after Ctrl-C."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            if options.list:
                return _list()
            if options.again is not None and not _changes(parser, options):
                return _repeat(options)
            return _generate(options)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the images above are complete", file=sys.stderr)
        return 130


def _list() -> int:
    width = max(map(len, shipped_models()))
    for name in shipped_models():
        print(f"{name:{width}}  {describe(name)}")
    print("Published checkpoints of Stable Diffusion 1 and 3: --model FILE, FOLDER, sd1:OWNER/NAME or sd3:OWNER/NAME")
    return 0


def _request(options: argparse.Namespace) -> tuple[Model, list[str], dict[str, Any]]:
    """Model, prompts and the other arguments of `make_settings`: with --again those of its image, unless set anew."""
    prompts = options.prompts + ([] if options.prompts_file is None else read_prompts(options.prompts_file))
    chosen = {name: value for name, value in _chosen(options).items() if value is not None}
    if options.again is not None:
        before = read_record(options.again).settings
        recorded = recorded_options(options.again, options.init, options.mask)
        model = load_recorded(options.again, options.model)
        return model, prompts or [before.prompt], {"seed": before.seed} | recorded | chosen | _inputs(recorded)
    if not prompts:
        raise ValueError("there is no prompt: give one, such as cat, or a --prompts-file; --help has examples")
    model = load_model(options.model or DEFAULT_MODEL, device=options.device, precision=options.precision)
    return model, prompts, chosen


def _inputs(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("init_image", "mask_image")}


def _generate(options: argparse.Namespace) -> int:
    model, prompts, chosen = _request(options)
    settings, inputs = make_settings(model, prompts, count=options.count, same_seed=options.same_seed, **chosen)
    make_folder(options.out, "--out")
    print(_summary(settings))
    results = []
    for generated in generate_all(model, settings, inputs, progress=True, with_frames=options.animation):
        tqdm.write(str(_write(options.out, generated.settings, generated.image)))  # above the bar
        results.append(generated)
    columns = options.columns or (options.count if len(prompts) > 1 else min(options.count, MOST_COLUMNS))
    name = file_name(_label(model.name), prompts[0] if len(prompts) == 1 else f"{len(prompts)} prompts")
    if options.grid:
        grid = encode_png(tile([generated.image for generated in results], columns))
        print(write_new(options.out, f"{name}-grid", ".png", grid))
    if options.animation:
        trajectories = [generated.frames for generated in results]
        print(write_new(options.out, f"{name}-animation", ".webp", animation(trajectories, columns)))
    if model.licence:
        print(f"The weights, and so the images: {model.licence}.")
    return 0


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one in a line, without empty lines and those that begin with #.

    Raises:
        ValueError: where it cannot be read, is no UTF-8 or holds no prompt.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"the file of prompts {path} is no text in UTF-8: {error.reason}") from error
    except OSError as error:
        raise ValueError(f"the file of prompts {path} cannot be read: {error.strerror}") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise ValueError(f"the file of prompts {path} holds no prompt")
    return prompts


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    """The options that were set, under the names that the pipelines have for them."""
    width, height = options.size or (None, None)
    return {
        "seed": options.seed,
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "sampler": options.sampler,
        "negative_prompt": options.negative_prompt,
        "width": width,
        "height": height,
        "clip_skip": options.clip_skip,
        "shift": options.shift,
        "init_image": options.init,
        "strength": options.strength,
        "mask_image": options.mask,
        "weighted_prompts": options.weighted_prompts or None,
        "sigmas": options.sigmas,
        "churn": options.churn,
    }


def _summary(settings: Sequence[Settings]) -> str:
    first = settings[0]
    seeds = sorted({each.seed for each in settings})
    span = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    images = "1 image" if len(settings) == 1 else f"{len(settings)} images"
    return (
        f"{first.model}: {images}, {first.width}x{first.height} pixels, {first.steps} steps of {first.sampler}, "
        f"guidance {first.guidance_scale:g}, {span}"
    )


def _label(model: str) -> str:
    """A short name for a model: of the weights in a training's folder, that of the folder."""
    path = Path(model)
    return path.parent.name if path.name == TRAINED_WEIGHTS and path.parent.name else path.stem


def _write(folder: Path, settings: Settings, image: Image.Image) -> Path:
    name = file_name(_label(settings.model), settings.prompt, str(settings.seed))
    return write_new(folder, name, ".png", encode_png(image))


def _changes(parser: argparse.ArgumentParser, options: argparse.Namespace) -> bool:
    """Whether --again comes with options that change the image. Raises ValueError for those that it cannot have."""
    changed = {name for name, value in vars(options).items() if value not in (parser.get_default(name), [])}
    for name in ("device", "precision"):
        if name in changed:
            raise ValueError(f"--again computes as its image was computed: leave out --{name}")
    return bool(changed - {"again", "model", "init", "mask", "out"})


def _repeat(options: argparse.Namespace) -> int:
    """Repeat an image; 1 where its pixels differ."""
    repeated = repeat(options.again, model=options.model, init_image=options.init, mask_image=options.mask)
    path = _write(options.out, repeated.record.settings, repeated.image)
    changes = f" Computed with {', '.join(repeated.changes)}." if repeated.changes else ""
    if repeated.same_bytes:
        print(f"{path} repeats {options.again} byte for byte.")
    elif not repeated.different_pixels:
        print(f"{path} has the pixels of {options.again}, but not its bytes.{changes}")
    else:
        print(
            f"{path} differs from {options.again} in {repeated.different_pixels} pixels, by at most "
            f"{repeated.largest_difference} of 255.{changes}"
        )
    return 1 if repeated.different_pixels else 0


if __name__ == "__main__":
    sys.exit(main())
