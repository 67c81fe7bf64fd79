// Checking a caption before anything is computed, so that a typing mistake is named instead of generated.

// How many letters have to be inserted, deleted or replaced to make b of a (Levenshtein's distance).
function editDistance(a, b) {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = previous[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(replaced, previous[j] + 1, current[j - 1] + 1));
    }
    previous = current;
  }
  return previous[b.length];
}

// The nearest word of the vocabulary, if it is near enough to be what was meant.
function nearestWord(word, vocabulary) {
  const distances = vocabulary.map((known) => editDistance(word, known));
  const smallest = Math.min(...distances);
  return smallest <= Math.max(1, Math.floor(word.length / 3)) ? vocabulary[distances.indexOf(smallest)] : null;
}

// What is wrong with a caption: {unknown: [{word, suggestion}], excess}, where `excess` counts words beyond `length`.
function checkCaption(text, vocabulary, length) {
  const known = vocabulary.slice(1); // number 0 is the padding
  const words = text.toLowerCase().replace(/[,.]/g, " ").split(/\s+/).filter(Boolean);
  const unknown = [...new Set(words.filter((word) => !known.includes(word)))];
  return {
    unknown: unknown.map((word) => ({ word, suggestion: nearestWord(word, known) })),
    excess: Math.max(0, words.length - length),
  };
}
