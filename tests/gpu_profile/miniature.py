"""Runs the gpu profile of a notebook in miniature: on the CPU, on an emulated CUDA device, in seconds.

    with miniature():
        execute(cells(path), path.stem)

The cells are the notebook's own, in order and in one namespace, with COURSE_PROFILE=gpu. Photographs are drawn here
(`write_photographs`) and found through ANIMAL_FACES_DIR, as a reader's are. What is cut, all of it in this file:

- `steps = course.pick(...)` and `batch_size = course.pick(...)` are at most what `SMALL` says; other choices pass.
- `helpers.training.train`, also inside `train_variant`: the first steps are real, and the later ones repeat the last.
- `TinySD.generate`: the first evaluation of the network is real, and the later ones return the same.
- figures are laid out, but not rendered.

An assertion that orders two values (<, <=, >, >=) judges how well something was trained, and two steps train nothing:
it is evaluated, so that an error in it counts, but its verdict does not. Every other assertion counts: about shapes,
classes, captions, devices and equality. The few among them that judge a training all the same are in `QUALITY`.
"""

import ast
import itertools
import json
import linecache
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib
import numpy as np
import torch
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from helpers import training
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.load import SDXL_SCALE
from helpers.autoencoders.zoo import compare
from helpers.data import drawing
from helpers.data.faces import CLASS_NAMES, Faces
from helpers.data.toy_faces import draw_face, sample_attributes
from helpers.tiny_sd import model
from tests.gpu_profile.emulated_gpu import emulated_cuda

SMALL = {"steps": 40, "batch_size": 8}  # at most, of what `course.pick` chooses
REAL_STEPS = 2  # of a training
FACES = {"train": 1500, "val": 900}  # synthetic ones: at least as many as the notebooks name in slices and limits
PHOTOGRAPHS = {"train": (140, 130, 120), "val": (70, 68, 66)}  # cats, dogs, wild animals: more than a slice of 64
PHOTOGRAPH_SIZE = 80  # pixels; the notebooks load them at 64
BRANCHES = ("course.pick", "course.device", "course.dtype")
ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
QUALITY = (  # assertions about a training without an order
    "(late / weights).argmax() == 9",
    "min(decibels, key=decibels.get) == 'VQ, gradient'",
)


def write_photographs(folder: Path) -> Path:
    """Draw a collection laid out as AFHQ is, and return its folder. One file of each class is in both splits."""
    rng = np.random.default_rng(0)
    for split, counts in PHOTOGRAPHS.items():
        for name, count in zip(CLASS_NAMES, counts, strict=True):
            place = folder / "afhq" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                _photograph(name, rng).save(place / f"{i:04}.jpg", quality=90)
            (place / "0000.jpg").write_bytes((folder / "afhq" / "train" / name / "0000.jpg").read_bytes())
    return folder / "afhq"


def write_autoencoder(path: Path) -> Path:
    """Write an untrained autoencoder whose latents have the shape of Stable Diffusion XL's, and return its file."""
    torch.manual_seed(0)
    config = KLConfig(width=8, multipliers=(1, 1, 1, 1), blocks=1, groups=4, scale=SDXL_SCALE)
    KLAutoencoder(config).save(path, {})
    return path


def _photograph(name: str, rng: np.random.Generator) -> Image.Image:
    """A face under uneven light, with grain."""
    face = draw_face(sample_attributes(rng, species=name), PHOTOGRAPH_SIZE).transpose(1, 2, 0)
    light = np.linspace(rng.uniform(0.4, 1), rng.uniform(0.4, 1), PHOTOGRAPH_SIZE)[:, None, None]
    grain = rng.normal(0, 8, face.shape)
    return Image.fromarray((face * light + grain).clip(0, 255).astype(np.uint8))


@contextmanager
def cuts() -> Iterator[None]:
    """Everything that makes the run short; see the module's first lines."""
    with ExitStack() as stack:
        short_train = short_training(training.train)
        for module in (training, compare):
            stack.enter_context(mock.patch.object(module, "train", short_train))
        stack.enter_context(mock.patch.object(model, "run_sampler", short_sampling(model.run_sampler)))
        stack.enter_context(mock.patch.dict(drawing.COUNTS, FACES))
        stack.enter_context(mock.patch.object(drawing, "MIN_FOR_WORKERS", sum(FACES.values())))  # none starts
        stack.enter_context(mock.patch.object(Figure, "savefig", _blank))
        yield


def short_training(train: Callable) -> Callable:
    """The training loop with `REAL_STEPS` steps; the states of the later ones repeat the last."""

    def short(network: Any, loss_fn: Any, config: Any, **options: Any) -> Iterator[Any]:
        for state in itertools.islice(train(network, loss_fn, config, **options), REAL_STEPS):
            yield state
        for step in range(state.step + 1, config.steps + 1):
            yield state._replace(step=step)

    return short


def short_sampling(run_sampler: Callable) -> Callable:
    """`run_sampler` with a denoiser that computes once, and then repeats itself."""

    def short(sampler: str, denoise: Callable, *args: Any, **options: Any) -> Iterator[Any]:
        first: list[Any] = []

        def evaluate(x: Any, t: float) -> Any:
            first[:] = first or [denoise(x, t)]
            return first[0]

        return run_sampler(sampler, evaluate, *args, **options)

    return short


def _blank(figure: Figure, file: Any, **options: Any) -> None:
    """In place of `Figure.savefig`, which takes most of the time of many notebooks."""
    Image.new("RGB", (8, 8)).save(file, format="png")


@contextmanager
def every_class_in_a_slice() -> Iterator[None]:
    """The first photographs hold every class, as `load_faces` promises; a slice that does not raises ValueError."""
    select = Faces.__getitem__
    tensor = Faces.tensor

    def checked_select(self: Faces, chosen: Any) -> Faces:
        result = select(self, chosen)
        if _is_beginning(chosen):
            _check_classes(result, slice(None))
        return result

    def checked_tensor(self: Faces, indices: Any = None, device: Any = None) -> torch.Tensor:
        if _is_beginning(indices):
            _check_classes(self, indices)
        return tensor(self, indices, device)

    with mock.patch.object(Faces, "__getitem__", checked_select), mock.patch.object(Faces, "tensor", checked_tensor):
        yield


def _is_beginning(chosen: Any) -> bool:
    """Whether it is a slice from the first image on; the last ones are of the largest class alone."""
    return isinstance(chosen, slice) and not chosen.start


def _check_classes(faces: Faces, chosen: slice) -> None:
    labels = faces.labels[chosen]
    if faces.source == "animal-faces" and len(labels) >= len(CLASS_NAMES):
        missing = [name for label, name in enumerate(CLASS_NAMES) if label not in labels]
        if missing:
            raise ValueError(f"a slice of {len(labels)} photographs holds no {' and no '.join(missing)}")


class _Miniature(ast.NodeTransformer):
    """Cuts `steps = course.pick(...)` and the like, and turns assertions that judge a training into expressions."""

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        name = ast.unparse(node.targets[0])
        if name in SMALL and isinstance(node.value, ast.Call) and ast.unparse(node.value.func).endswith(".pick"):
            node.value = ast.Call(ast.Name("min", ast.Load()), [node.value, ast.Constant(SMALL[name])], [])
        return ast.fix_missing_locations(node)

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        compared = [part for part in ast.walk(node.test) if isinstance(part, ast.Compare)]
        ordered = any(isinstance(operator, ORDER) for part in compared for operator in part.ops)
        if not ordered and ast.unparse(node.test) not in QUALITY:
            return node
        truth = ast.Call(ast.Name("bool", ast.Load()), [node.test], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(truth), node))


def cells(path: Path) -> list[str]:
    """The source of each code cell."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def has_gpu_branch(sources: list[str]) -> bool:
    """Whether cells use the profile, other than in `if source:`, where they load published weights."""
    for tree in map(ast.parse, sources):
        optional = [part for part in ast.walk(tree) if isinstance(part, ast.If) and "source" in ast.unparse(part.test)]
        skipped = {id(node) for part in optional for node in ast.walk(part)}
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and id(node) not in skipped]
        if any(ast.unparse(node) in BRANCHES for node in attributes):
            return True
    return False


def needed(sources: list[str], phrase: str) -> list[str]:
    """The only cell that contains a phrase, after those that it needs: the last ones to bind the names that it reads.

    Raises:
        ValueError: if no cell contains the phrase, or several do.
    """
    (last,) = (number for number, source in enumerate(sources) if phrase in source)
    chosen: list[str] = []
    wanted: set[str] = set()
    for source in reversed(sources[: last + 1]):
        tree = ast.parse(source)
        bound = set(_names(tree, ast.Store))
        if not chosen or wanted & bound:
            chosen.insert(0, source)
            wanted = wanted - bound | set(_names(tree, ast.Load))
    return chosen


def _names(tree: ast.AST, context: type) -> Iterator[str]:
    """The names that are read (ast.Load) or bound (ast.Store), also by imports and definitions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, context):
            yield node.id
        elif isinstance(node, ast.FunctionDef) and context is ast.Store:
            yield node.name
        elif isinstance(node, ast.alias) and context is ast.Store:
            yield node.asname or node.name.split(".")[0]


def execute(sources: list[str], name: str) -> dict[str, Any]:
    """Execute cells in one namespace, and return it; an error says in which cell it was raised."""
    namespace: dict[str, Any] = {"__name__": "__main__", "display": display}
    for number, source in enumerate(sources, start=1):
        where = f"<{name}, cell [{number}]>"
        linecache.cache[where] = len(source), None, source.splitlines(keepends=True), where  # lines in tracebacks
        try:
            exec(compile(_Miniature().visit(ast.parse(source)), where, "exec"), namespace)
        except Exception as error:
            error.add_note(f"in cell [{number}] of {name}, gpu profile:\n{source}")
            raise
    return namespace


@contextmanager
def miniature() -> Iterator[None]:
    """Where cells of the gpu profile can be executed."""
    with emulated_cuda(), cuts(), every_class_in_a_slice(), matplotlib.rc_context():
        yield
