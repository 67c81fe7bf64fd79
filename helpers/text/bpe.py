"""CLIP's byte-pair tokenizer (Sennrich et al. 2016; Radford et al. 2021): text to token ids and back.

A word starts as its bytes. The merges, learned by counting (helpers.text.train), join neighbouring symbols, the
earliest learned first, until none applies. Frequent words become one token, rare ones a few, and nothing is unknown.
"""

import gzip
import json
import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import regex
import torch
from torch import Tensor

from helpers.course import repository_root
from helpers.weights.pretrained import read_text

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"
LENGTH = 77  # of CLIP's context in tokens, start and end included
# contractions, letters in a row, single digits, anything else in a row
WORD = regex.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")

Pair = tuple[str, str]


def published_merges() -> Path:
    """The file of CLIP's 48,894 merges, which the course brings: 49,408 tokens follow from them.

    They are OpenAI's, under the MIT licence that lies beside them.
    """
    return repository_root() / "00_assets" / "tokenizers" / "clip" / "merges.txt.gz"


def _read_merges(file: Path) -> list[Any]:
    """The merges of a merges.txt, plain or compressed, or of a tokenizer.json; not yet checked to be pairs.

    Raises:
        ValueError: for a file of another kind.
    """
    if file.suffix.lower() == ".gz":
        text = gzip.decompress(file.read_bytes()).decode("utf-8")
    else:
        text = read_text(file)
    lines = text.splitlines()
    if file.suffix.lower() == ".json":
        try:
            lines = json.loads(text)["model"]["merges"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} is no list of merges: take merges.txt or tokenizer.json, which lie beside a vocab.json"
            ) from error
    return [tuple(line.split() if isinstance(line, str) else line) for line in lines if line[:8] != "#version"]


@lru_cache
def bytes_to_unicode() -> dict[int, str]:
    """A printable character for each of the 256 bytes, so that merges can be written in a text file (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def split_words(text: str) -> list[str]:
    """Split a text into lower-cased words, digits and punctuation; white space of any length separates them."""
    import unicodedata

    return WORD.findall(" ".join(unicodedata.normalize("NFC", text).split()).lower())


def to_symbols(word: str) -> list[str]:
    """Split a word into one symbol per byte, the last marked as the word's end: "cat" -> c, a, t</w>."""
    symbols = [bytes_to_unicode()[byte] for byte in word.encode()]
    return [*symbols[:-1], symbols[-1] + WORD_END]


def merge_pair(symbols: Sequence[str], pair: Pair) -> list[str]:
    """Join every occurrence of the pair in a list of symbols, from left to right."""
    result = []
    i = 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            result.append("".join(pair))
            i += 2
        else:
            result.append(symbols[i])
            i += 1
    return result


class BytePairTokenizer:
    """Texts to token ids and back, by a list of merges: the whole vocabulary follows from it."""

    def __init__(self, merges: Sequence[Pair], length: int = LENGTH, padding: int | None = None):
        """
        Args:
            merges: in the order in which they were learned.
            length: of every encoded text in tokens, start and end included.
            padding: id of the padding token; None: the end token's, as in CLIP ViT-L (OpenCLIP's uses 0).
        """
        alphabet = list(bytes_to_unicode().values())
        word_ends = [character + WORD_END for character in alphabet]
        self.merges = list(merges)
        self.length = length
        self.rank = {pair: rank for rank, pair in enumerate(merges)}
        self.vocabulary = [*alphabet, *word_ends, *map("".join, merges), START, END]
        self.ids = {token: i for i, token in enumerate(self.vocabulary)}
        self.bos_id = self.ids[START]
        self.eos_id = self.ids[END]
        self.pad_id = self.eos_id if padding is None else padding
        self._tokens_of_word: dict[str, list[str]] = {START: [START], END: [END]}  # a cache

    @classmethod
    def from_file(cls, path: str | Path, **options) -> "BytePairTokenizer":
        """Read a published `merges.txt` or `tokenizer.json`, or the folder that holds one.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: for a file that holds no merges.
        """
        path = Path(path)
        candidates = [path / "merges.txt", path / "tokenizer.json"] if path.is_dir() else [path]
        files = [candidate for candidate in candidates if candidate.is_file()]
        if not files:
            raise FileNotFoundError(
                f"no tokenizer at {path}: CLIP's is the file merges.txt of a diffusers folder's "
                "tokenizer/, or of the hub's openai/clip-vit-large-patch14"
            )
        file = files[0]
        pairs = _read_merges(file)
        malformed = [pair for pair in pairs if len(pair) != 2]
        if not pairs:
            raise ValueError(f"{file} is no list of merges, two symbols a line: it is empty")
        if malformed:
            raise ValueError(f"{file} is no list of merges, two symbols a line: got {str(malformed[0])[:80]}")
        return cls(pairs, **options)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def split(self, text: str) -> list[str]:
        """Split a text into tokens: "orange cats" -> orange</w>, cats</w>."""
        tokens = []
        for word in split_words(text):
            tokens += self._split_word(word)
        return tokens

    def _split_word(self, word: str) -> list[str]:
        """Apply the merges to one word, the earliest learned first."""
        if word not in self._tokens_of_word:
            symbols = to_symbols(word)
            while len(symbols) > 1:
                pairs = zip(symbols, symbols[1:], strict=False)
                best = min(pairs, key=lambda pair: self.rank.get(pair, len(self.rank)))
                if best not in self.rank:
                    break
                symbols = merge_pair(symbols, best)
            self._tokens_of_word[word] = symbols
        return self._tokens_of_word[word]

    def __call__(self, texts: Sequence[str], length: int | None = None) -> Tensor:
        """Token ids int64 (B, length): start, text, end, padding. Warns when a text is too long and is truncated."""
        length = length or self.length
        rows = torch.full((len(texts), length), self.pad_id, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            text_ids = [self.ids[token] for token in self.split(text)]
            if len(text_ids) > length - 2:
                lost = self.decode(text_ids[length - 2 :])
                warnings.warn(
                    f"a prompt holds {length - 2} tokens, this one has {len(text_ids)}; its end was cut off: {lost!r}",
                    stacklevel=2,
                )
            ids = [self.bos_id, *text_ids[: length - 2], self.eos_id]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Token ids back to lower-cased text, up to the first end token."""
        text_ids = takewhile(lambda i: i != self.eos_id, map(int, ids))
        tokens = [self.vocabulary[i] for i in text_ids if i != self.bos_id]
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()} | {" ": ord(" ")}
        characters = "".join(tokens).replace(WORD_END, " ").rstrip()
        return bytes(byte_of[character] for character in characters).decode(errors="replace")

    def to_json(self) -> str:
        """Serialise for `from_json`: the weights of tiny towers contain their tokenizer."""
        return json.dumps({"merges": self.merges, "length": self.length, "padding": self.pad_id})

    @classmethod
    def from_json(cls, text: str) -> "BytePairTokenizer":
        """The tokenizer that `to_json` serialised."""
        stored = json.loads(text)
        return cls([(left, right) for left, right in stored["merges"]], stored["length"], stored["padding"])
