// Tokenizers: text to token ids.

// --- Methods 1 to 3: a word is a token (helpers/data/captions.py) --------------------------------------------------

const splitCaption = (text) => text.toLowerCase().replace(/[,.]/g, " ").split(/\s+/).filter(Boolean);

class WordTokenizer {
  // vocabulary: all words; number 0 is the padding, which no text contains. length: tokens of a caption.
  constructor(vocabulary, length) {
    this.length = length;
    this.ids = new Map(vocabulary.map((word, id) => [word, id]).slice(1));
  }

  // Padded token ids; "" is the unconditional caption. A word outside of the vocabulary, or a word too many, throws.
  encode(text) {
    const words = splitCaption(text);
    const unknown = words.filter((word) => !this.ids.has(word));
    if (unknown.length) throw new RangeError(`unknown word: ${unknown.join(", ")}`);
    if (words.length > this.length) {
      throw new RangeError(`a caption has at most ${this.length} words, got ${words.length}`);
    }
    const ids = new Array(this.length).fill(0);
    words.forEach((word, i) => {
      ids[i] = this.ids.get(word);
    });
    return ids;
  }
}

// --- Stable Diffusion 1: byte-pair encoding (helpers/text/bpe.py) --------------------------------------------------

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const WORD_END = "</w>";
// contractions, letters in a row, single digits, anything else in a row
const WORD = /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu;

// A printable character for each of the 256 bytes (GPT-2's table); bytes that are not printable get 256, 257, ...
function bytesToUnicode() {
  const isPrintable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const others = bytes.filter((byte) => !isPrintable(byte));
  const table = new Map();
  for (const byte of bytes.filter(isPrintable)) table.set(byte, String.fromCharCode(byte));
  others.forEach((byte, i) => table.set(byte, String.fromCharCode(256 + i)));
  return table;
}

// A word starts as its bytes; merges join neighbouring symbols, the earliest learned first, until none applies.
// Frequent words become one token, rare ones a few, and nothing is unknown.
class BytePairTokenizer {
  constructor({ merges, length, padding }) {
    const table = bytesToUnicode();
    const alphabet = [...table.values()];
    const wordEnds = alphabet.map((character) => character + WORD_END);
    this.characters = table;
    this.length = length;
    this.padding = padding;
    this.rank = new Map(merges.map((pair, rank) => [pair.join(" "), rank]));
    this.vocabulary = [...alphabet, ...wordEnds, ...merges.map((pair) => pair.join("")), START, END];
    this.ids = new Map(this.vocabulary.map((token, id) => [token, id]));
  }

  // The symbols that a word ends up as.
  splitWord(word) {
    if (word === START || word === END) return [word];
    let symbols = Array.from(new TextEncoder().encode(word), (byte) => this.characters.get(byte));
    symbols[symbols.length - 1] += WORD_END;
    for (;;) {
      const ranks = symbols.slice(1).map((right, i) => this.rank.get(`${symbols[i]} ${right}`) ?? Infinity);
      const best = Math.min(...ranks);
      if (best === Infinity) return symbols;
      symbols = this.mergePair(symbols, best);
    }
  }

  // Every occurrence of the pair with this rank joined, from left to right.
  mergePair(symbols, rank) {
    const merged = [];
    for (let i = 0; i < symbols.length; i++) {
      const isPair = i + 1 < symbols.length && this.rank.get(`${symbols[i]} ${symbols[i + 1]}`) === rank;
      merged.push(isPair ? symbols[i] + symbols[i + 1] : symbols[i]);
      if (isPair) i++;
    }
    return merged;
  }

  // The tokens of a text, as strings.
  split(text) {
    const words = text.normalize("NFC").trim().replace(/\s+/g, " ").toLowerCase().match(WORD) ?? [];
    return words.flatMap((word) => this.splitWord(word));
  }

  // Token ids: start, text, end, padding. What is too long is cut off.
  encode(text) {
    const tokens = this.split(text).slice(0, this.length - 2);
    const ids = new Array(this.length).fill(this.padding);
    [START, ...tokens, END].forEach((token, i) => {
      ids[i] = this.ids.get(token);
    });
    return ids;
  }
}
