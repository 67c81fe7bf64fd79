"""The architecture of PaliGemma in one diagram: shapes and sizes are read off the published sizes' modules.

The images and answers in it are the tiny model's, which has the same architecture.
"""

import torch
from torch import Tensor

from helpers.data import load_faces
from helpers.show.diagrams import LINE, Canvas
from helpers.vlm.paligemma import PaliGemmaConfig, PaliGemmaModel, prefix_lm_mask
from helpers.vlm.pipeline import PaliGemma

WIDTH = 1100
HEIGHT = 930
PROMPT = "detect nose"
FACE = 7  # of the held-out ones
ALT = (
    "How PaliGemma answers: an image is split into patches, which a vision tower of 27 layers and one linear layer "
    "turn into 256 tokens; the question's tokens follow them; 18 decoder layers generate the answer token by token. "
    "Below: a layer of the decoder in detail, the attention mask, and answers that are boxes and masks."
)


class Shapes:
    """Sizes of PaliGemma 3B at 224 pixels, counted on the meta device."""

    def __init__(self) -> None:
        self.config = PaliGemmaConfig.paligemma_3b_224()
        with torch.device("meta"):
            model = PaliGemmaModel(self.config)
        self.vision = self.config.vision
        self.language = self.config.language
        self.parameters = {name: _count(getattr(model, name)) for name in ("vision", "projector", "language")}
        self.table = _count(model.language.tokens)
        self.states = model.projector.weight.shape


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _size_text(count: int) -> str:
    return f"{count / 1e9:.2f} billion parameters" if count >= 1e9 else f"{count / 1e6:.1f} M parameters"


def draw(assistant: PaliGemma) -> Canvas:
    """The whole diagram."""
    shapes = Shapes()
    canvas = Canvas(WIDTH, HEIGHT, ALT)
    face = load_faces(split="val", limit=FACE + 1, progress=False).tensor()[FACE]
    reply = assistant.generate([face], [PROMPT])[0]
    _image_tokens(canvas, shapes, face)
    _row(canvas, shapes, reply)
    _layer(canvas, shapes)
    _mask(canvas)
    _places(canvas, assistant, face)
    return canvas


def _image_tokens(canvas: Canvas, shapes: Shapes, face: Tensor) -> None:
    vision = shapes.vision
    canvas.frame(15, 12, 1070, 168, "1  The image becomes tokens")
    canvas.image(38, 48, 96, 96, face)
    for i in range(1, 16):
        canvas.axes.plot([38 + 6 * i, 38 + 6 * i], [48, 144], color="white", lw=0.5, alpha=0.6, zorder=5)
        canvas.axes.plot([38, 134], [48 + 6 * i, 48 + 6 * i], color="white", lw=0.5, alpha=0.6, zorder=5)
    side = vision.size // vision.patch
    canvas.text(38, 157, f"3 × {vision.size} × {vision.size}: {side} × {side} patches", 7.5, align="left")
    canvas.arrow((136, 96), (158, 96))
    canvas.box(160, 72, 96, 48, f"patches of\n{vision.patch} × {vision.patch}: linear\n→ {vision.width:,}", "data", 7.5)
    canvas.text(208, 134, "+ positions", 7.5, colour=LINE)
    canvas.arrow((256, 96), (276, 96))
    text = f"vision tower (SigLIP): {vision.layers} layers, every patch attends to every other, "
    canvas.text(278, 52, text + _size_text(shapes.parameters["vision"]), 8, align="left", bold=True)
    step = 500 / vision.layers
    for i in range(vision.layers):
        canvas.box(278 + step * i, 66, step - 5, 60, fill="convolution")
    canvas.arrow((776, 96), (796, 96))
    canvas.box(798, 72, 118, 48, f"one linear layer\n{shapes.states[1]:,} → {shapes.states[0]:,}", "other")
    canvas.text(857, 134, _size_text(shapes.parameters["projector"]), 7.5, colour=LINE)
    canvas.arrow((916, 96), (938, 96))
    canvas.box(940, 72, 118, 48, f"{vision.tokens} tokens\nof {shapes.states[0]:,}", "convolution", bold=True)
    canvas.text(999, 134, "not scaled", 7.5, colour=LINE)


def _row(canvas: Canvas, shapes: Shapes, reply: str) -> None:
    """Prompt and answer in one row, the decoder above it, the next word above that."""
    language = shapes.language
    top = 192
    canvas.frame(15, top, 1070, 262, "2  One row of tokens, processed by the decoder; the answer is appended")
    tokens = ["<bos>", *PROMPT.split(), "\\n", *reply.replace("><", "> <").split(), "<eos>"]
    count = len(PROMPT.split()) + 2
    x = 38
    y = top + 212
    for i in range(6):
        canvas.box(x + 30 * i, y, 26, 26, "" if i == 4 else "patch", "convolution", 6)
    canvas.text(x + 133, y + 13, "...", 9)
    canvas.text(x + 88, y + 38, f"{shapes.vision.tokens} of the image", 7.5, colour=LINE)
    step = 60
    places = [x + 186 + 28 + 60 * i for i in range(len(tokens))]
    for i, (place, token) in enumerate(zip(places, tokens, strict=True)):
        canvas.box(place - 28, y, 56, 26, token, "text" if i < count else "resample", 7)
    text = f"prompt: embeddings times √{language.width:,}"
    canvas.text((places[0] + places[count - 1]) / 2, y + 38, text, 7.5, colour=LINE)
    canvas.text((places[count] + places[-1]) / 2, y + 38, "answer", 7.5, colour=LINE)
    wide = places[-1] + step / 2 - x
    tall = 84 / language.layers
    for i in range(language.layers):
        canvas.box(x, top + 100 + tall * i, wide, tall - 1.2, fill="attention")
    text = (
        f"decoder (Gemma): {language.layers} layers,\n{_size_text(shapes.parameters['language'])},\n"
        f"{shapes.table / 1e6:.0f} M of them to embed\n{language.vocabulary:,} tokens"
    )
    canvas.text(x + wide + 14, top + 142, text, 8, align="left", bold=True)
    for place in (*(x + 30 * i + 13 for i in range(6)), *places):
        canvas.arrow((place, y), (place, top + 186))
    for place, token in zip(places[count - 1 :], tokens[count:], strict=False):
        canvas.arrow((place, top + 98), (place, top + 82))
        canvas.box(place - 28, top + 54, 56, 26, token, "resample", 7)
    text = "times the embedding table: the most likely token"
    canvas.text(places[count - 1] - 40, top + 67, text, 7.5, align="right", colour=LINE)


def _layer(canvas: Canvas, shapes: Shapes) -> None:
    config = shapes.language
    top = 466
    canvas.frame(15, top, 430, 452, "A layer of the decoder")
    x = 90
    middle = 250
    canvas.text(middle, top + 34, f"tokens × {config.width:,}", 8)
    canvas.arrow((middle, top + 42), (middle, top + 58))
    canvas.box(x, top + 58, 320, 24, "RMSNorm", "data")
    for i, (name, heads) in enumerate({"q": config.heads, "k": config.kv_heads, "v": config.kv_heads}.items()):
        left = x + 112 * i
        text = f"{name}: {heads} × {config.head_width}"
        canvas.arrow((left + 48, top + 82), (left + 48, top + 98))
        canvas.box(left, top + 98, 96, 24, text, "convolution")
    for left in (x, x + 112):
        canvas.arrow((left + 48, top + 122), (left + 48, top + 136))
        canvas.box(left, top + 136, 96, 24, "RoPE: rotate", "other")
        canvas.arrow((left + 48, top + 160), (left + 48, top + 176))
    canvas.arrow((x + 272, top + 122), (x + 272, top + 176))
    canvas.box(x, top + 176, 320, 26, f"attention: {config.heads} query heads, one of keys and values", "attention")
    canvas.arrow((middle, top + 202), (middle, top + 216))
    canvas.box(x, top + 216, 320, 22, f"linear → {config.width:,}", "convolution")
    canvas.arrow((middle, top + 238), (middle, top + 250))
    canvas.dot(middle, top + 259, "+")
    canvas.arrow((middle, top + 48), (x - 30, top + 48), (x - 30, top + 259), (middle - 9, top + 259), dashed=True)
    canvas.arrow((middle, top + 268), (middle, top + 282))
    canvas.box(x, top + 282, 320, 24, "RMSNorm", "data")
    for left, text in ((x, f"gate: → {config.mlp:,}, GELU"), (x + 168, f"value: → {config.mlp:,}")):
        canvas.arrow((left + 76, top + 306), (left + 76, top + 322))
        canvas.box(left, top + 322, 152, 24, text, "convolution")
        canvas.arrow((left + 76, top + 346), (left + 76, top + 358), (middle + (9 if left > x else -9), top + 362))
    canvas.dot(middle, top + 364, "×")
    canvas.arrow((middle, top + 373), (middle, top + 382))
    canvas.box(x, top + 382, 320, 22, f"linear → {config.width:,}", "convolution")
    canvas.arrow((middle, top + 404), (middle, top + 414))
    canvas.dot(middle, top + 423, "+")
    canvas.arrow((middle, top + 273), (x - 30, top + 273), (x - 30, top + 423), (middle - 9, top + 423), dashed=True)
    canvas.arrow((middle, top + 432), (middle, top + 446))


def _mask(canvas: Canvas) -> None:
    top = 466
    left = 458
    canvas.frame(left, top, 300, 452, "The attention mask")
    tokens = ["patch", "patch", "patch", "what", "animal", "?", "\\n", "a", "dog", "<eos>"]
    suffix = torch.tensor([[i > 6 for i in range(len(tokens))]])
    mask = prefix_lm_mask(suffix, torch.ones_like(suffix))[0]
    side = 210 / len(tokens)
    x = left + 62
    y = top + 86
    for i, row in enumerate(mask.tolist()):
        for j, seen in enumerate(row):
            role = "resample" if i > 6 else "text" if i > 2 else "convolution"
            if seen:
                canvas.box(x + side * j + 1, y + side * i + 1, side - 2, side - 2, fill=role)
        canvas.text(x - 6, y + side * (i + 0.5), tokens[i], 7.5, align="right")
        canvas.text(x + side * (i + 0.5), y - 22, tokens[i], 7.5, rotation=60)
    text = (
        "Rows are queries, columns are keys. Image and\nquestion attend to each other; the answer attends\n"
        "to them and to its own earlier tokens. So no\nearlier state ever changes: keys and values are\n"
        "cached, and a new token costs one token."
    )
    canvas.text(left + 20, top + 372, text, 7.5, align="left", colour=LINE)


def _places(canvas: Canvas, assistant: PaliGemma, face: Tensor) -> None:
    top = 466
    left = 771
    canvas.frame(left, top, 314, 452, "Answers that are locations")
    parts = assistant.detect(face, "left eye ; right eye ; nose")
    (outline,) = assistant.segment(face, "face")
    canvas.image(left + 28, top + 40, 120, 120, face)
    for detection in parts:
        canvas.outline(left + 28, top + 40, 120, 120, detection.box)
    canvas.image(left + 168, top + 40, 120, 120, face)
    canvas.axes.contour(
        outline.mask.float(),
        levels=[0.5],
        colors="#ffe66d",
        linewidths=1.6,
        zorder=5,
        extent=(left + 168, left + 288, top + 40, top + 160),
    )
    canvas.text(left + 88, top + 172, "detect eyes and nose", 7.5, colour=LINE)
    canvas.text(left + 228, top + 172, "segment face", 7.5, colour=LINE)
    said = assistant.generate([face], ["segment face"])[0]
    tokens = said.removesuffix(" face").replace("><", "> <").split()
    canvas.text(left + 20, top + 204, "What the tiny model generated for the mask: a box,", 8, align="left")
    for i, token in enumerate(tokens[:4]):
        canvas.box(left + 20 + 70 * i, top + 218, 64, 20, token, "resample", 6.5)
        canvas.text(left + 52 + 70 * i, top + 248, ("top", "left", "bottom", "right")[i], 7.5, colour=LINE)
    canvas.text(left + 20, top + 272, "and 4 × 4 codes, which a small VQ-VAE decodes:", 8, align="left")
    for i, token in enumerate(tokens[4:]):
        canvas.box(left + 20 + 70 * (i % 4), top + 286 + 25 * (i // 4), 64, 20, token, "text", 6.5)
    canvas.text(
        left + 20,
        top + 414,
        "There are 1,024 location tokens and 128 for codes,\nin the published model as in this one.",
        8,
        align="left",
        colour=LINE,
    )
