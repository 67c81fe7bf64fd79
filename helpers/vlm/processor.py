"""Preprocessing: images to tensors, prompts to token ids, and token ids back to text.

A prompt is `<image>` once per patch, `<bos>`, the question and a newline; an answer ends with `<eos>`. Alphabet:
B batch, N tokens, S pixels a side.
"""

import gzip
from collections.abc import Sequence
from difflib import get_close_matches
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

PAD = "<pad>"
EOS = "<eos>"
BOS = "<bos>"
IMAGE = "<image>"
UNKNOWN = "<unk>"
LOCATIONS = tuple(f"<loc{i:04}>" for i in range(1024))  # a coordinate: 0 is one edge, 1023 the opposite one
SEGMENTS = tuple(f"<seg{i:03}>" for i in range(128))  # a code of the mask autoencoder


class Tokenizer:
    """Gemma's byte-pair encoding, or a small word-level vocabulary, run by the `tokenizers` library."""

    def __init__(self, tokenizer: "tokenizers.Tokenizer"):
        """Wrap a tokenizer; the tokens of PaliGemma that it lacks are added.

        Raises:
            ValueError: for a tokenizer without padding, start or end token.
        """
        missing = [token for token in (PAD, EOS, BOS) if tokenizer.token_to_id(token) is None]
        if missing:
            raise ValueError(f"this is not a tokenizer of PaliGemma or Gemma: it has no {' and no '.join(missing)}")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        new = [token for token in (*LOCATIONS, *SEGMENTS) if tokenizer.token_to_id(token) is None]
        if new:  # Gemma's tokenizer: PaliGemma's tokens follow its 256,000, in this order
            tokenizer.add_tokens(new)
        if tokenizer.token_to_id(IMAGE) is None:
            tokenizer.add_special_tokens([IMAGE])
        self.tokenizer = tokenizer
        self.pad_token_id = self._token_id(PAD)
        self.eos_token_id = self._token_id(EOS)
        self.bos_token_id = self._token_id(BOS)
        self.image_token_id = self._token_id(IMAGE)

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Load a published `tokenizer.json` (or `.json.gz`), or the one in a folder.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that is not such a tokenizer.
        """
        import tokenizers

        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(f"no tokenizer at {file}: PaliGemma's is the file tokenizer.json of its folder")
        try:
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{file} is not a tokenizer: {error}") from error
        return cls(tokenizer)

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> "Tokenizer":
        """Build a word-level tokenizer for tiny models.

        Every word and punctuation mark of the texts becomes two tokens: without ("cat") and with ("▁cat") a space
        before it.
        """
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

        split = pre_tokenizers.Split(Regex(r"\n|▁?\w+|▁?[^\s\w▁]|▁"), "isolated")
        distinct: set[str] = set()
        for text in texts:
            distinct.update(word.strip("▁") for word, _ in split.pre_tokenize_str(text.replace(" ", "▁")))
        vocabulary = [PAD, EOS, BOS, UNKNOWN, "\n", "▁"]
        for word in sorted(distinct - {"\n", ""}):
            vocabulary += [word, f"▁{word}"]
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
        tokenizer.add_special_tokens([PAD, EOS, BOS, UNKNOWN])
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = split
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        return cls(tokenizer)

    def _token_id(self, token: str) -> int:
        token_id = self.tokenizer.token_to_id(token)
        if token_id is None:
            raise ValueError(f"this tokenizer has no token {token}")
        return token_id

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __call__(self, text: str) -> list[int]:
        """Encode a text as token ids, without start and end token."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Decode token ids to text, up to the first end token; <loc> and <seg> tokens are kept."""
        before_end = [int(i) for i in ids]
        if self.eos_token_id in before_end:
            before_end = before_end[: before_end.index(self.eos_token_id)]
        return self.tokenizer.decode([i for i in before_end if i not in (self.pad_token_id, self.bos_token_id)])

    def known_words(self) -> list[str]:
        """All words of the vocabulary, sorted, without punctuation and special tokens."""
        return sorted({token.strip("▁") for token in self.tokenizer.get_vocab() if token.strip("▁").isalnum()})

    def to_json(self) -> str:
        """Everything that `from_json` needs."""
        return self.tokenizer.to_str()

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """Invert `to_json`."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_str(text))


class Processor:
    """Turns images and prompts into a `Batch`."""

    def __init__(self, tokenizer: Tokenizer, image_size: int, image_tokens: int, max_text_tokens: int = 512):
        """
        Args:
            image_size: S, of the vision tower.
            image_tokens: tokens per image.
            max_text_tokens: the limit of a row, without its image tokens.
        """
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.image_tokens = image_tokens
        self.max_text_tokens = max_text_tokens

    def __call__(self, images: Sequence[Any], prompts: Sequence[str], suffixes: Sequence[str] | None = None) -> Batch:
        """Build a batch; rows of different lengths are padded on the right.

        Args:
            images: one per prompt: paths, PIL images of any mode and size, or tensors (3, H, W) in [-1, 1].
            prompts: without `<image>`, start token and newline, which are added here; may be "".
            suffixes: the answers, for training; None: the model will generate them.

        Raises:
            TypeError, ValueError, FileNotFoundError: for what is not an image, counts that differ, texts with special
                tokens, and rows that are too long.
        """
        self.check_counts(images, prompts)
        ids, attention_mask, suffix = self.tokenize(prompts, suffixes)
        tensors = [preprocess_image(image, self.image_size) for image in images]
        return Batch(torch.stack(tensors), ids, attention_mask, suffix)

    @staticmethod
    def check_counts(images: Sequence[Any], prompts: Sequence[str]) -> None:
        """Raise TypeError or ValueError unless there are two lists with one prompt for every image."""
        for name, values in (("images", images), ("prompts", prompts)):
            if isinstance(values, str | Path):
                raise TypeError(f"{name} must be a list, got the single {values!r}")
        if len(images) != len(prompts):
            raise ValueError(f"every prompt needs one image: got {len(images)} images and {len(prompts)} prompts")

    def tokenize(self, prompts: Sequence[str], suffixes: Sequence[str] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Build the text part of a batch: token ids, attention mask and suffix mask, each (B, N)."""
        if isinstance(suffixes, str):
            raise TypeError(f"suffixes must be a list, got the single {suffixes!r}")
        targets: Sequence[str | None] = [None] * len(prompts) if suffixes is None else suffixes
        if not prompts or len(targets) != len(prompts):
            raise ValueError(
                f"every row needs a prompt, and either all rows have a suffix or none: got {len(prompts)} prompts and "
                f"{len(targets)} suffixes"
            )
        rows = [self._tokenize_row(prompt, target) for prompt, target in zip(prompts, targets, strict=True)]
        length = max(len(prefix) + len(suffix) for prefix, suffix in rows)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id, dtype=torch.int64)
        attention_mask = torch.zeros(ids.shape, dtype=torch.bool)
        suffix_mask = torch.zeros(ids.shape, dtype=torch.bool)
        for i, (prefix, suffix) in enumerate(rows):
            end = len(prefix) + len(suffix)
            ids[i, :end] = torch.tensor(prefix + suffix)
            attention_mask[i, :end] = True
            suffix_mask[i, len(prefix) : end] = True
        return ids, attention_mask, suffix_mask

    def _tokenize_row(self, prompt: str, suffix: str | None) -> tuple[list[int], list[int]]:
        """The token ids of a row, up to the newline and after it."""
        _check_text("prompt", prompt)
        prompt_ids = self.tokenizer(prompt.strip() + "\n")
        self._refuse_unknown(prompt_ids, prompt)
        suffix_ids: list[int] = []
        if suffix is not None:
            _check_text("suffix", suffix)
            suffix_ids = [*self.tokenizer(suffix), self.tokenizer.eos_token_id]
            self._refuse_unknown(suffix_ids, suffix)
        count = len(prompt_ids) + 1 + len(suffix_ids)
        if count > self.max_text_tokens:
            raise ValueError(
                f"this row has {count} text tokens, the maximum is {self.max_text_tokens}: {prompt[:60]!r}..."
            )
        image_ids = [self.tokenizer.image_token_id] * self.image_tokens
        return [*image_ids, self.tokenizer.bos_token_id, *prompt_ids], suffix_ids

    def _refuse_unknown(self, ids: list[int], text: str) -> None:
        """Raise ValueError for words outside a tiny vocabulary. Gemma's tokenizer falls back on bytes instead."""
        if self.tokenizer.tokenizer.token_to_id(UNKNOWN) not in ids:
            return
        known = self.tokenizer.known_words()
        unknown = [word for word in text.replace("?", " ").replace(";", " ").split() if word not in known]
        close = [match[0] for match in (get_close_matches(word, known, 1) for word in unknown) if match]
        suggestion = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
        raise ValueError(
            f"this model's vocabulary does not contain {', '.join(map(repr, unknown)) or 'a punctuation mark'} (in "
            f"{text!r}).{suggestion} It knows these words: {' '.join(known)}"
        )


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise TypeError(f"a {name} must be a string, got {type(text).__name__}")
    for token in (IMAGE, BOS, EOS, PAD, UNKNOWN):
        if token in text:
            raise ValueError(f"a {name} must not contain {token}, which is added automatically: {text!r}")


def preprocess_image(image: Any, size: int) -> Tensor:
    """Convert an image to a tensor (3, S, S) in [-1, 1].

    It is rotated upright, converted to RGB with transparent pixels on white, and resized to a square (bicubic) without
    cropping: PaliGemma was trained on images that are distorted rather than cropped.

    Args:
        image: a path, a PIL image, or a tensor (3, H, W) in [-1, 1].

    Raises:
        TypeError, ValueError, FileNotFoundError: for anything else; the message says what was passed.
    """
    check_image(image)
    if isinstance(image, str | Path):
        return _preprocess_file(Path(image), size)
    if isinstance(image, Image.Image):
        return _preprocess_pil(image, size)
    if image.shape[1:] != (size, size):
        image = F.interpolate(image[None].float(), (size, size), mode="bicubic", antialias=True)[0].clamp(-1, 1)
    return image.float()


def check_image(image: Any) -> None:
    """Raise TypeError, ValueError or FileNotFoundError for what is no image, as far as that shows without decoding."""
    if isinstance(image, str | Path):
        if not Path(image).is_file():
            raise FileNotFoundError(f"no image at {image}")
        return
    if isinstance(image, Image.Image):
        return
    if not isinstance(image, Tensor):
        raise TypeError(
            "an image is a path, a PIL image or a tensor (3, H, W) in [-1, 1], got "
            f"{'none' if image is None else type(image).__name__}"
        )
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point() or not image.numel():
        raise ValueError(f"an image tensor is (3, H, W), floats in [-1, 1]; got {image.dtype} {tuple(image.shape)}")
    if not image.abs().max() <= 1.0001:  # written like this, it refuses NaN too
        raise ValueError(f"the values of an image lie in [-1, 1], got up to {image.abs().max().item():.3g}")


def _preprocess_file(path: Path, size: int) -> Tensor:
    from helpers.data.images import FORMATS

    try:
        with Image.open(path, formats=FORMATS) as image:
            return _preprocess_pil(image, size)
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        raise ValueError(f"{path} cannot be used as an image: {error}") from error


def _preprocess_pil(image: Image.Image, size: int) -> Tensor:
    from helpers.data.images import BadImageError, upright_rgb

    try:
        resized = upright_rgb(image).resize((size, size), Image.Resampling.BICUBIC)
    except BadImageError as error:
        raise ValueError(f"this image cannot be used: {error}") from error
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1) / 127.5 - 1
