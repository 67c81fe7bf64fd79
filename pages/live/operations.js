// The operations that all networks are made of: linear layers, convolutions, norms, attention.

// The base of every network here: its weights, and the operations on feature maps that use them.
class Network extends FeatureMaps {
  constructor({ tensors }, { method = undefined, megabytes = 64 } = {}) {
    const weightBytes = Object.values(tensors).reduce((sum, tensor) => sum + 5 * tensor.halves.length, 0);
    super(megabytes * MEGABYTE + weightBytes, method);
    this.tensors = tensors;
    this.packed = new Map(); // layers whose weights are ready for `matmul`
    this.vectors = new Map(); // small tensors in single precision
  }

  // --- weights -----------------------------------------------------------------------------------------------------

  has(name) {
    return name in this.tensors;
  }

  // A tensor that is used as it is: a bias, a norm's gain, an embedding table.
  vector(name) {
    if (!this.vectors.has(name)) {
      if (!this.has(name)) throw new RangeError(`the file has no tensor ${name}`);
      this.vectors.set(name, toFloat32(this.tensors[name]));
    }
    return this.vectors.get(name);
  }

  // The weights (outputs, inputs, taps) of a linear layer (one tap) or a 3 x 3 convolution (nine), as matmul's B:
  // panels of eight outputs, and inside a panel row after row of k, which runs over taps and for each over inputs.
  layer(name) {
    if (this.packed.has(name)) return this.packed.get(name);
    const weightName = this.has(`${name}.weight`) ? `${name}.weight` : `${name}_weight`; // PyTorch has in_proj_weight
    const { shape } = this.tensors[weightName];
    const [outputs, inputs] = shape;
    const taps = (shape[2] ?? 1) * (shape[3] ?? 1);
    const depth = inputs * taps;
    const columns = roundUp(outputs, 4);
    if (depth % 4) throw new RangeError(`${name}: ${depth} inputs are no multiple of 4`);

    const weights = toFloat32(this.tensors[weightName]);
    const panels = this.allocateWeights(depth * columns);
    for (let first = 0, at = 0; first < columns; first += PANEL) {
      const width = Math.min(PANEL, columns - first);
      for (let tap = 0; tap < taps; tap++) {
        for (let input = 0; input < inputs; input++, at += width) {
          for (let j = 0; j < width && first + j < outputs; j++) {
            panels[at + j] = weights[((first + j) * inputs + input) * taps + tap];
          }
        }
      }
    }
    const bias = this.allocateWeights(columns);
    const biasName = weightName.replace(/weight$/, "bias");
    if (this.has(biasName)) bias.set(toFloat32(this.tensors[biasName]));
    const layer = { panels: panels.byteOffset, bias: bias.byteOffset, outputs, columns, depth, taps };
    this.packed.set(name, layer);
    return layer;
  }

  // --- products of matrices ----------------------------------------------------------------------------------------

  // y = x W^T + bias in every row: a linear layer, or a 1 x 1 convolution.
  linear(x, name) {
    const layer = this.layer(name);
    if (layer.depth !== x.channels) throw new RangeError(`${name} takes ${layer.depth} channels, got ${x.channels}`);
    const y = this.like(x, layer.columns);
    const rows = roundUp(x.rows, ROWS);
    const { matmul } = this.kernels;
    matmul(x.data.byteOffset, layer.panels, layer.bias, y.data.byteOffset, rows, layer.columns, layer.depth);
    return layer.outputs === layer.columns ? y : this.channelRange(y, 0, layer.outputs);
  }

  // A 3 x 3 convolution with a padding of 1. Every output position gathers its nine neighbours in one long row
  // ("im2col"); the convolution is then a linear layer.
  conv3x3(x, name, stride = 1) {
    const layer = this.layer(name);
    const { batch, channels } = x;
    if (layer.depth !== 9 * channels) {
      throw new RangeError(`${name} takes ${layer.depth} / 9 channels: ${channels}`);
    }
    const y = this.map(batch, x.height / stride, x.width / stride, layer.columns);
    const { bottom } = this;
    const gathered = this.allocate(roundUp(y.rows, ROWS) * layer.depth);
    this.gatherNeighbours(this.pad(x), y, stride, gathered.byteOffset);
    const rows = roundUp(y.rows, ROWS);
    this.kernels.matmul(
      gathered.byteOffset, layer.panels, layer.bias, y.data.byteOffset,
      rows, layer.columns, layer.depth,
    );
    this.bottom = bottom; // the gathered rows are needed no more
    return layer.outputs === layer.columns ? y : this.channelRange(y, 0, layer.outputs);
  }

  // In the padded map x, three neighbours of one line lie next to one another. So for each line of the output and each
  // of its three lines of neighbours, one call copies all of them.
  gatherNeighbours(x, y, stride, target) {
    const bytes = 4 * x.channels;
    for (let line = 0; line < y.batch * y.height; line++) {
      const image = Math.floor(line / y.height);
      for (let dy = 0; dy < 3; dy++) {
        const row = image * x.height + (line % y.height) * stride + dy;
        const source = x.data.byteOffset + row * x.width * bytes;
        const to = target + (9 * line * y.width + 3 * dy) * bytes;
        this.kernels.copyRows(source, stride * bytes, to, 9 * bytes, y.width, 3 * bytes);
      }
    }
  }

  // --- norms -------------------------------------------------------------------------------------------------------

  // Every row to mean 0 and variance 1, then a learned gain and shift for each channel.
  layerNorm(x, name, epsilon = 1e-5) {
    const y = this.like(x);
    const gain = this.vector(`${name}.weight`);
    const shift = this.vector(`${name}.bias`);
    const { channels } = x;
    for (let start = 0; start < x.data.length; start += channels) {
      let sum = 0;
      for (let i = start; i < start + channels; i++) sum += x.data[i];
      const mean = sum / channels;
      let squares = 0;
      for (let i = start; i < start + channels; i++) squares += (x.data[i] - mean) ** 2;
      const factor = 1 / Math.sqrt(squares / channels + epsilon);
      for (let i = 0; i < channels; i++) {
        y.data[start + i] = (x.data[start + i] - mean) * factor * gain[i] + shift[i];
      }
    }
    return y;
  }

  // Each group of channels of an image to mean 0 and variance 1 over all positions, then gain and shift; and, because
  // most norms are followed by it, SiLU in the same pass.
  //
  // `scaleShift` (a row per image: scales of all channels, then shifts) makes it an adaptive group norm: the normalised
  // map is multiplied by 1 + scale and shifted, which is how time and class steer a network (FiLM).
  groupNorm(x, name, { groups, epsilon = 1e-5, activate = false, scaleShift = null }) {
    const y = this.like(x);
    const { channels } = x;
    const positions = x.height * x.width;
    const { bottom } = this;
    const factors = this.allocate(channels);
    const offsets = this.allocate(channels);
    const scale = activate ? this.kernels.scaleSilu : this.kernels.scale;
    for (let image = 0; image < x.batch; image++) {
      const start = image * positions * channels;
      const end = start + positions * channels;
      this.groupStatistics(x, start, end, groups, epsilon, factors, offsets);
      this.applyGain(name, factors, offsets, scaleShift && scaleShift.data.subarray(2 * image * channels));
      const [from, to] = [x, y].map(({ data }) => data.byteOffset + 4 * start);
      scale(from, to, factors.byteOffset, offsets.byteOffset, positions, channels);
    }
    this.bottom = bottom; // factors and offsets are needed no more
    return y;
  }

  // factor and offset of every channel such that x * factor + offset is normalised.
  groupStatistics(x, start, end, groups, epsilon, factors, offsets) {
    const { channels } = x;
    const sums = new Float64Array(channels);
    const squares = new Float64Array(channels);
    for (let at = start; at < end; at += channels) {
      for (let i = 0; i < channels; i++) {
        const value = x.data[at + i];
        sums[i] += value;
        squares[i] += value * value;
      }
    }
    const size = channels / groups;
    const count = (end - start) / groups;
    for (let first = 0; first < channels; first += size) {
      let sum = 0;
      let square = 0;
      for (let i = first; i < first + size; i++) {
        sum += sums[i];
        square += squares[i];
      }
      const mean = sum / count;
      const factor = 1 / Math.sqrt(square / count - mean * mean + epsilon);
      factors.fill(factor, first, first + size);
      offsets.fill(-mean * factor, first, first + size);
    }
  }

  // Multiplies the learned gain, and the adaptive one, into factors and offsets.
  applyGain(name, factors, offsets, scaleShift) {
    const gain = this.vector(`${name}.weight`);
    const shift = this.vector(`${name}.bias`);
    const channels = factors.length;
    for (let i = 0; i < channels; i++) {
      factors[i] *= gain[i];
      offsets[i] = offsets[i] * gain[i] + shift[i];
      if (scaleShift) {
        factors[i] *= 1 + scaleShift[i];
        offsets[i] = offsets[i] * (1 + scaleShift[i]) + scaleShift[channels + i];
      }
    }
  }

  // --- attention ---------------------------------------------------------------------------------------------------

  // softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, eq. 1) in every head. Queries, keys and values are ranges of
  // channels {map, from}, because a layer often computes several of them in one product.
  //
  // causal: a token attends to itself and those before it. onWeights(image, head, weights, stride): is shown the map.
  attend(q, k, v, { width, heads, causal = false, onWeights = null }) {
    const result = this.like(q.map, width);
    const { bottom } = this;
    const { matmul, softmax } = this.kernels;
    const D = width / heads; // of one head
    const N = q.map.rows / q.map.batch; // queries
    const M = k.map.rows / k.map.batch; // keys
    const depth = roundUp(D, 4);
    const keys = roundUp(M, 4);
    const queries = roundUp(N, ROWS);
    const Q = this.allocate(queries * depth).fill(0);
    const K = this.allocate(depth * keys).fill(0);
    const V = this.allocate(keys * depth).fill(0);
    const noBias = this.allocate(Math.max(depth, keys)).fill(0);
    const weights = this.allocate(queries * keys);
    const mixed = this.allocate(queries * depth);
    for (let image = 0; image < q.map.batch; image++) {
      for (let head = 0; head < heads; head++) {
        copyRows(q, image * N, N, head * D, D, Q, depth, 1 / Math.sqrt(D));
        packTransposed(k, image * M, M, head * D, D, K, keys, depth);
        packRows(v, image * M, M, head * D, D, V, depth, keys);
        matmul(
          Q.byteOffset, K.byteOffset, noBias.byteOffset, weights.byteOffset,
          queries, keys, depth,
        );
        if (causal || M < keys) mask(weights, N, M, keys, causal);
        softmax(weights.byteOffset, N, keys);
        if (onWeights) onWeights(image, head, weights, keys);
        matmul(
          weights.byteOffset, V.byteOffset, noBias.byteOffset, mixed.byteOffset,
          queries, depth, keys,
        );
        for (let i = 0; i < N; i++) {
          const row = (image * N + i) * width + head * D;
          for (let d = 0; d < D; d++) result.data[row + d] = mixed[i * depth + d];
        }
      }
    }
    this.bottom = bottom;
    return result;
  }

  // The course's attention layer (helpers/layers/attention.py); `context` is x itself in self-attention.
  attention(x, context, name, { heads, causal = false, onWeights = null }) {
    const q = this.linear(x, `${name}.to_q`);
    const kv = this.linear(context, `${name}.to_kv`);
    const width = q.channels;
    const options = { width, heads, causal, onWeights };
    const mixed = this.attend({ map: q, from: 0 }, { map: kv, from: 0 }, { map: kv, from: width }, options);
    return this.linear(mixed, `${name}.to_out`);
  }

  // --- element by element ------------------------------------------------------------------------------------------

  // These change x and return it. `activation`: "silu", "gelu" or "quickGelu".
  activate(x, activation) {
    this.kernels[activation](x.data.byteOffset, x.data.length);
    return x;
  }

  add(x, y) {
    const a = x.data;
    const b = y.data;
    if (a.length !== b.length) throw new RangeError(`cannot add ${b.length} numbers to ${a.length}`);
    for (let i = 0; i < a.length; i++) a[i] += b[i];
    return x;
  }

  // Adds a row per image to all of its positions.
  addToPositions(x, perImage) {
    const { channels } = x;
    const positions = x.height * x.width;
    for (let row = 0; row < x.rows; row++) {
      const image = Math.floor(row / positions) * channels;
      for (let i = 0; i < channels; i++) x.data[row * channels + i] += perImage.data[image + i];
    }
    return x;
  }
}
