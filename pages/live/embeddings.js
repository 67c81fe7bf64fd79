// What a network is conditioned on besides the image: the timestep and the tokens, as vectors.

// Cosines, then sines, at width / 2 frequencies from 1 to 1 / 10,000 (helpers/layers/embeddings.py). One row for each
// image of the batch. Rounding to single precision where PyTorch does matters: an angle of 1,000 carries an error of
// 3e-5 otherwise, and a network amplifies it.
function timestepEmbedding(network, timestep, batch, width) {
  const { fround } = Math;
  const half = width / 2;
  const x = network.map(batch, 1, 1, width);
  for (let i = 0; i < half; i++) {
    const frequency = fround(Math.exp(fround(fround(-Math.log(10_000) * i) / half)));
    const angle = fround(fround(timestep) * frequency);
    for (let image = 0; image < batch; image++) {
      x.data[image * width + i] = Math.cos(angle);
      x.data[image * width + half + i] = Math.sin(angle);
    }
  }
  return x;
}

// The vectors of tokens, plus that of each position. `captions`: token ids, one list per text.
function embedTokens(network, captions, tableName, positionsName) {
  const table = network.vector(tableName);
  const positions = network.vector(positionsName);
  const length = captions[0].length;
  const width = network.tensors[tableName].shape[1];
  const x = network.map(captions.length, 1, length, width);
  captions.flat().forEach((id, row) => {
    const position = row % length;
    for (let i = 0; i < width; i++) x.data[row * width + i] = table[id * width + i] + positions[position * width + i];
  });
  return x;
}
