"""CLIP's byte-pair tokenizer (Sennrich et al. 2016; Radford et al. 2021): text to numbers, nothing left out.

A word starts as its bytes. The merges, learned by counting (helpers.text.train), glue neighbours together, the earliest
learned first, until none applies. Frequent words end as one token, rare ones as a few, and nothing is ever unknown.
"""

import json
import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

import regex
import torch
from torch import Tensor

from helpers.weights.pretrained import fetch

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"
LENGTH = 77  # tokens that CLIP reads, start and end included
# contractions, letters in a row, single digits, anything else in a row
WORD = regex.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")

Pair = tuple[str, str]


@lru_cache
def bytes_to_unicode() -> dict[int, str]:
    """A printable letter for each of the 256 bytes, so that merges can be written in a text file (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def split_words(text: str) -> list[str]:
    """Lower-cased words, numbers and marks; all white space is alike."""
    import unicodedata

    return WORD.findall(" ".join(unicodedata.normalize("NFC", text).split()).lower())


def to_symbols(word: str) -> list[str]:
    """A word as one piece per byte, the last marked as the word's end: "cat" -> c, a, t</w>."""
    spelled = [bytes_to_unicode()[byte] for byte in word.encode()]
    return [*spelled[:-1], spelled[-1] + WORD_END]


def merge_pair(pieces: Sequence[str], pair: Pair) -> list[str]:
    """The pieces with every occurrence of the pair made one, from left to right."""
    result = []
    i = 0
    while i < len(pieces):
        if tuple(pieces[i : i + 2]) == pair:
            result.append("".join(pair))
            i += 2
        else:
            result.append(pieces[i])
            i += 1
    return result


class BytePairTokenizer:
    """Texts to numbers and back, by a list of merges: the whole vocabulary follows from it."""

    def __init__(self, merges: Sequence[Pair], length: int = LENGTH, padding: int | None = None):
        """
        Args:
            merges: in the order in which they were learned.
            length: of every encoded text, start and end included.
            padding: the id that fills up short texts; None: the end token's, as in CLIP ViT-L (OpenCLIP's uses 0).
        """
        alphabet = list(bytes_to_unicode().values())
        vocabulary = [*alphabet, *(letter + WORD_END for letter in alphabet), *map("".join, merges), START, END]
        self.merges = list(merges)
        self.length = length
        self.rank = {pair: rank for rank, pair in enumerate(merges)}
        self.ids = {piece: number for number, piece in enumerate(vocabulary)}
        self.pieces = vocabulary
        self.start = self.ids[START]
        self.end = self.ids[END]
        self.padding = self.end if padding is None else padding
        self._known: dict[str, list[str]] = {START: [START], END: [END]}

    @classmethod
    def from_file(cls, path: str | Path, **options) -> "BytePairTokenizer":
        """Read a published `merges.txt` or `tokenizer.json`, or the folder that holds one.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: for a file that holds no merges.
        """
        path = Path(path)
        files = [path / "merges.txt", path / "tokenizer.json"] if path.is_dir() else [path]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"no tokenizer at {path}: CLIP's is the file merges.txt of a diffusers folder's "
                "tokenizer/, or of the hub's openai/clip-vit-large-patch14"
            )
        text = file.read_text(encoding="utf-8")
        lines = json.loads(text)["model"]["merges"] if file.suffix == ".json" else text.splitlines()
        pairs = [tuple(line.split() if isinstance(line, str) else line) for line in lines if line[:8] != "#version"]
        wrong = next((pair for pair in pairs if len(pair) != 2), None)
        if not pairs or wrong is not None:
            raise ValueError(f"{file} is no list of merges, two pieces a line: got {wrong or 'an empty list'}")
        return cls(pairs, **options)

    @staticmethod
    def fetched() -> Path:
        """Where the hub put CLIP's merges, for checkpoints that bring no tokenizer.

        Raises:
            FileNotFoundError: where the hub does not give them.
        """
        try:
            return fetch("openai/clip-vit-large-patch14", ["merges.txt"])
        except FileNotFoundError as error:
            raise FileNotFoundError(
                "this checkpoint brings no tokenizer, and the hub did not give CLIP's: pass the "
                "folder of any Stable Diffusion's as tokenizer(s)="
            ) from error

    def __len__(self) -> int:
        return len(self.pieces)

    def split(self, text: str) -> list[str]:
        """A text's pieces: "orange cats" -> orange</w>, cats</w>."""
        return [piece for word in split_words(text) for piece in self._split_word(word)]

    def _split_word(self, word: str) -> list[str]:
        if word not in self._known:
            pieces = to_symbols(word)
            while len(pieces) > 1:
                best = min(zip(pieces, pieces[1:], strict=False), key=lambda pair: self.rank.get(pair, len(self.rank)))
                if best not in self.rank:
                    break
                pieces = merge_pair(pieces, best)
            self._known[word] = pieces
        return self._known[word]

    def __call__(self, texts: Sequence[str], length: int | None = None) -> Tensor:
        """int64 (B, length): start, the text, end, padding. Warns where a text is too long and loses its end."""
        length = length or self.length
        rows = torch.full((len(texts), length), self.padding, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            pieces = self.split(text)
            kept = pieces[: length - 2]
            if len(kept) < len(pieces):
                lost = self.decode([self.ids[piece] for piece in pieces[length - 2 :]])
                warnings.warn(
                    f"a prompt holds {length - 2} tokens, this one has {len(pieces)}; its end was cut off: {lost!r}",
                    stacklevel=2,
                )
            ids = [self.start, *(self.ids[piece] for piece in kept), self.end]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Numbers back to lower-cased text, up to the first end token."""
        until = takewhile(lambda i: i != self.end, map(int, ids))
        pieces = [self.pieces[i] for i in until if i != self.start]
        codes = {letter: byte for byte, letter in bytes_to_unicode().items()}
        words = "".join(pieces).replace(WORD_END, " ").rstrip()
        return bytes(b for c in words for b in ([codes[c]] if c != " " else b" ")).decode(errors="replace")

    def to_json(self) -> str:
        """All that `from_json` needs: weights of tiny towers carry their tokenizer with them."""
        return json.dumps({"merges": self.merges, "length": self.length, "padding": self.padding})

    @classmethod
    def from_json(cls, text: str) -> "BytePairTokenizer":
        """Inverts `to_json`."""
        stored = json.loads(text)
        return cls([tuple(pair) for pair in stored["merges"]], stored["length"], stored["padding"])
