"""What goes in and what comes out: pictures to tensors, texts to numbers, numbers to text.

A prompt is `<image>` once per patch, `<bos>`, the question and a newline; an answer ends with `<eos>`. Alphabet:
B batch, N tokens, S pixels a side.
"""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from helpers.vlm.paligemma import Batch

if TYPE_CHECKING:
    import tokenizers

PADDING = "<pad>"
END = "<eos>"
START = "<bos>"
IMAGE = "<image>"
UNKNOWN = "<unk>"
LOCATIONS = tuple(f"<loc{i:04}>" for i in range(1024))  # a coordinate, in 1024ths of the picture
SEGMENTS = tuple(f"<seg{i:03}>" for i in range(128))  # a code of the mask autoencoder


class Tokenizer:
    """Gemma's byte-pair encoding, or a tiny list of words, run by the `tokenizers` library."""

    def __init__(self, tokenizer: "tokenizers.Tokenizer"):
        """
        Raises:
            ValueError: for a tokenizer without padding, start or end token.
        """
        lacking = [token for token in (PADDING, END, START) if tokenizer.token_to_id(token) is None]
        if lacking:
            raise ValueError(f"this is no tokenizer of PaliGemma or Gemma: it has no {' and no '.join(lacking)}")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        new = [token for token in (*LOCATIONS, *SEGMENTS) if tokenizer.token_to_id(token) is None]
        if new:  # Gemma's own: PaliGemma's tokens follow its 256,000, in this order
            tokenizer.add_tokens(new)
        if tokenizer.token_to_id(IMAGE) is None:
            tokenizer.add_special_tokens([IMAGE])
        self.tokenizer = tokenizer
        self.padding, self.end, self.start, self.image = map(tokenizer.token_to_id, (PADDING, END, START, IMAGE))

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Read a published `tokenizer.json` (or `.json.gz`), or the folder that holds one.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: for a file that is no such tokenizer.
        """
        import tokenizers

        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(f"no tokenizer at {file}: PaliGemma's is the file tokenizer.json of its folder")
        try:
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            read = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{file} is no tokenizer: {error}") from error
        return cls(read)

    @classmethod
    def of_words(cls, texts: Sequence[str]) -> "Tokenizer":
        """For tiny models: every word and mark of the texts is a token, alone ("cat") and behind a space ("▁cat")."""
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

        split = pre_tokenizers.Split(Regex(r"\n|▁?\w+|▁?[^\s\w▁]|▁"), "isolated")
        words = {word.strip("▁") for text in texts for word, _ in split.pre_tokenize_str(text.replace(" ", "▁"))}
        both = (mark + word for word in sorted(words - {"\n", ""}) for mark in ("", "▁"))
        known = [PADDING, END, START, UNKNOWN, "\n", "▁", *both]
        made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token=UNKNOWN))
        made.add_special_tokens([PADDING, END, START, UNKNOWN])
        made.normalizer = normalizers.Replace(" ", "▁")
        made.pre_tokenizer = split
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        return cls(made)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __call__(self, text: str) -> list[int]:
        """A text's numbers, without start and end."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Numbers back to text, up to the first end token; <loc> and <seg> tokens are kept."""
        known = [int(i) for i in ids]
        known = known[: known.index(self.end)] if self.end in known else known
        return self.tokenizer.decode([i for i in known if i not in (self.padding, self.start)])

    def words(self) -> list[str]:
        """What it knows, sorted, without marks and special tokens."""
        return sorted({piece.strip("▁") for piece in self.tokenizer.get_vocab() if piece.strip("▁").isalnum()})

    def to_json(self) -> str:
        """All that `from_json` needs."""
        return self.tokenizer.to_str()

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """Inverts `to_json`."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_str(text))


class Processor:
    """Pictures and prompts to a `Batch`, tokens back to text."""

    def __init__(self, tokenizer: Tokenizer, size: int, tokens: int, longest: int = 512):
        """
        Args:
            size: S, of the vision tower.
            tokens: of one picture.
            longest: most tokens of a row beside the picture's.
        """
        self.tokenizer = tokenizer
        self.size = size
        self.tokens = tokens
        self.longest = longest

    def __call__(self, pictures: Sequence[Any], prompts: Sequence[str], suffixes: Sequence[str] | None = None) -> Batch:
        """Rows of different lengths, filled up with padding on the right.

        Args:
            pictures: one per prompt: paths, PIL pictures of any mode and size, or tensors (3, H, W) in [-1, 1].
            prompts: without `<image>`, start and newline, which are added here; "" asks for nothing.
            suffixes: the answers to learn from; None: the model is to give them.

        Raises:
            TypeError, ValueError, FileNotFoundError: for what is no picture, counts that do not match, texts that hold
                special tokens, and rows that are too long.
        """
        texts = self.texts(self.matched(pictures, prompts), suffixes)
        return Batch(torch.stack([picture_tensor(one, self.size) for one in pictures]), *texts)

    @staticmethod
    def matched(pictures: Sequence[Any], prompts: Sequence[str]) -> Sequence[str]:
        """The prompts, if there is one for every picture. Raises TypeError, ValueError otherwise."""
        for name, several in (("pictures", pictures), ("prompts", prompts)):
            if isinstance(several, str | Path):
                raise TypeError(f"{name} are a list, got the single {several!r}")
        if len(pictures) != len(prompts):
            raise ValueError(f"one picture for every prompt: got {len(pictures)} pictures and {len(prompts)} prompts")
        return prompts

    def texts(self, prompts: Sequence[str], suffixes: Sequence[str] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """A batch without its pictures: ids, which are real, which are the suffix's, each (B, N)."""
        if isinstance(suffixes, str):
            raise TypeError(f"suffixes are a list, got the single {suffixes!r}")
        answers = [None] * len(prompts) if suffixes is None else suffixes
        if not prompts or len(answers) != len(prompts):
            raise ValueError(
                f"every row has a prompt, and all have a suffix or none: got {len(prompts)} prompts and "
                f"{len(answers)} suffixes"
            )
        rows = [self._row(prompt, suffix) for prompt, suffix in zip(prompts, answers, strict=True)]
        length = max(len(before) + len(after) for before, after in rows)
        ids = torch.full((len(rows), length), self.tokenizer.padding, dtype=torch.int64)
        real, answer = torch.zeros(2, *ids.shape, dtype=torch.bool)
        for i, (before, after) in enumerate(rows):
            end = len(before) + len(after)
            ids[i, :end] = torch.tensor(before + after)
            real[i, :end] = True
            answer[i, len(before) : end] = True
        return ids, real, answer

    def _row(self, prompt: str, suffix: str | None) -> tuple[list[int], list[int]]:
        """A row's numbers, up to the newline and behind it."""
        for name, text in (("prompt", prompt), ("suffix", suffix)):
            if text is not None and not isinstance(text, str):
                raise TypeError(f"a {name} is a text, got {type(text).__name__}")
            special = next((token for token in (IMAGE, START, END, PADDING, UNKNOWN) if token in (text or "")), None)
            if special:
                raise ValueError(f"a {name} must not hold {special}, which is added where it belongs: {text!r}")
        words = self.tokenizer(prompt.strip() + "\n")
        self._refuse_unknown(words, prompt)
        after = [] if suffix is None else [*self.tokenizer(suffix), self.tokenizer.end]
        self._refuse_unknown(after, suffix or "")
        if len(words) + 1 + len(after) > self.longest:
            raise ValueError(
                f"this row has {len(words) + 1 + len(after)} tokens of text, the most are {self.longest}: "
                f"{prompt[:60]!r}..."
            )
        return [self.tokenizer.image] * self.tokens + [self.tokenizer.start, *words], after

    def _refuse_unknown(self, ids: list[int], text: str) -> None:
        """A tiny tokenizer has read few words; Gemma's falls back on bytes, and nothing is unknown to it."""
        unknown = self.tokenizer.tokenizer.token_to_id(UNKNOWN)
        if unknown in ids:
            known = self.tokenizer.words()
            strange = [word for word in text.replace("?", " ").replace(";", " ").split() if word not in known]
            raise ValueError(
                f"this model has never read {', '.join(map(repr, strange)) or 'one of these marks'} (in "
                f"{text!r}); its words: {' '.join(known)}"
            )


def picture_tensor(picture: Any, size: int) -> Tensor:
    """A picture as (3, S, S) in [-1, 1]: upright, RGB, what is transparent on white, squeezed to a square (bicubic).

    The whole of it is kept: PaliGemma was trained on squeezed pictures, not on cut ones.

    Raises:
        TypeError, ValueError, FileNotFoundError: for what is no picture; they say what was got.
    """
    from helpers.data.images import FORMATS, BadPictureError, upright_rgb

    if isinstance(picture, str | Path):
        if not Path(picture).is_file():
            raise FileNotFoundError(f"no picture at {picture}")
        try:
            with Image.open(picture, formats=FORMATS) as opened:
                return picture_tensor(opened, size)
        except Exception as error:  # Pillow raises whatever a broken file leads it to
            raise ValueError(f"{picture} cannot be used as a picture: {error}") from error
    if isinstance(picture, Image.Image):
        try:
            small = upright_rgb(picture).resize((size, size), Image.Resampling.BICUBIC)
        except BadPictureError as error:
            raise ValueError(f"this picture cannot be used: {error}") from error
        return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1) / 127.5 - 1
    if not isinstance(picture, Tensor):
        raise TypeError(
            "a picture is a path, a PIL picture or a tensor (3, H, W) in [-1, 1], got "
            f"{'none' if picture is None else type(picture).__name__}"
        )
    if picture.ndim != 3 or picture.shape[0] != 3 or not picture.is_floating_point() or not picture.numel():
        raise ValueError(
            f"a picture as a tensor is (3, H, W), floats in [-1, 1]; got {picture.dtype} {tuple(picture.shape)}"
        )
    if not picture.abs().max() <= 1.0001:  # so written, NaN is refused too
        raise ValueError(f"a picture's values lie in [-1, 1], got up to {picture.abs().max().item():.3g}")
    if picture.shape[1:] != (size, size):
        picture = F.interpolate(picture[None].float(), (size, size), mode="bicubic", antialias=True)[0].clamp(-1, 1)
    return picture.float()
