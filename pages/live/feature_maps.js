// Feature maps: how images and tokens lie in memory, and operations that only move their numbers.
//
// A feature map is {data, batch, height, width, channels, rows}: `rows` = batch * height * width rows of `channels`
// numbers each, so that the channels of a position are neighbours in memory ("channels last"). A row is then what a
// linear layer takes, whether it is a pixel or a token, and every layer becomes a product of matrices.

const MEGABYTE = 2 ** 20;
const roundUp = (count, multiple) => Math.ceil(count / multiple) * multiple;

// WebAssembly sees one block of memory, so everything lies in it. Weights are laid down from its end as layers use them
// for the first time, and stay. Feature maps are laid down from its beginning, one after another; `keep` frees those that
// a block needed on the way, and `release` all of them after each evaluation. So the maps of one block lie where those of
// the block before lay, in memory that is still in the processor's cache, and no garbage is left to be collected.
class FeatureMaps {
  constructor(bytes, method) {
    const { numbers, kernels } = createKernels(bytes, method);
    this.numbers = numbers;
    this.kernels = kernels; // the functions of matmul.js and elementwise.js on `numbers`
    this.bottom = 16; // where the next feature map goes
    this.top = numbers.length & ~15; // where the weights begin
  }

  // --- memory ------------------------------------------------------------------------------------------------------

  allocate(count) {
    const start = this.bottom;
    this.bottom = roundUp(start + count, 16);
    if (this.bottom > this.top) throw new RangeError("out of memory: give the network more megabytes");
    return this.numbers.subarray(start, start + count);
  }

  allocateWeights(count) {
    this.top -= roundUp(count, 16);
    if (this.bottom > this.top) throw new RangeError("out of memory: give the network more megabytes");
    return this.numbers.subarray(this.top, this.top + count).fill(0);
  }

  release() {
    this.bottom = 16;
  }

  // The feature map that `compute` returns; all others that it laid down are freed.
  keep(compute) {
    const { bottom } = this;
    const result = compute();
    this.bottom = bottom;
    const kept = this.map(result.batch, result.height, result.width, result.channels);
    kept.data.set(result.data); // also where both overlap
    return kept;
  }

  // A feature map with arbitrary content; `matmul` works on four rows at a time, so there is room for a multiple of it.
  map(batch, height, width, channels) {
    const rows = batch * height * width;
    const data = this.allocate(roundUp(rows, ROWS) * channels).subarray(0, rows * channels);
    return { data, batch, height, width, channels, rows };
  }

  like(x, channels = x.channels) {
    return this.map(x.batch, x.height, x.width, channels);
  }

  // Rows of numbers, such as the tokens of a caption.
  fromRows(values, batch, channels) {
    const x = this.map(batch, 1, values.length / (batch * channels), channels);
    x.data.set(values);
    return x;
  }

  // --- shapes ------------------------------------------------------------------------------------------------------

  copy(x) {
    const y = this.like(x);
    y.data.set(x.data);
    return y;
  }

  channelRange(x, from, channels) {
    const y = this.like(x, channels);
    for (let row = 0; row < x.rows; row++) {
      const start = row * x.channels + from;
      y.data.set(x.data.subarray(start, start + channels), row * channels);
    }
    return y;
  }

  concatenate(x, y) {
    const z = this.like(x, x.channels + y.channels);
    let target = z.data.byteOffset;
    for (const { data, rows, channels } of [x, y]) {
      this.kernels.copyRows(data.byteOffset, 4 * channels, target, 4 * z.channels, rows, 4 * channels);
      target += 4 * channels;
    }
    return z;
  }

  // A border of zeros, one position wide.
  pad(x) {
    const y = this.map(x.batch, x.height + 2, x.width + 2, x.channels);
    y.data.fill(0);
    const length = x.width * x.channels;
    for (let line = 0; line < x.batch * x.height; line++) {
      const image = Math.floor(line / x.height);
      const to = ((line + 2 * image + 1) * y.width + 1) * x.channels;
      y.data.set(x.data.subarray(line * length, (line + 1) * length), to);
    }
    return y;
  }

  // Twice the height and width, every position four times (nearest-neighbour interpolation).
  upsample(x) {
    const y = this.map(x.batch, 2 * x.height, 2 * x.width, x.channels);
    for (let line = 0; line < y.batch * y.height; line++) {
      for (let column = 0; column < y.width; column++) {
        const from = ((line >> 1) * x.width + (column >> 1)) * x.channels;
        y.data.set(x.data.subarray(from, from + x.channels), (line * y.width + column) * x.channels);
      }
    }
    return y;
  }

  // Images as PyTorch stores them, (batch, channels, size, size), to a feature map; `patch` x `patch` pixels become the
  // channels of one position (pixel_unshuffle). `copies` puts the same image in the batch several times.
  fromImage(values, { channels, patch = 1, copies = 1 }) {
    const size = Math.sqrt(values.length / channels);
    const x = this.map(copies, size / patch, size / patch, channels * patch * patch);
    let at = 0;
    for (let copy = 0; copy < copies; copy++) {
      for (let row = 0; row < size; row += patch) {
        for (let column = 0; column < size; column += patch) {
          for (let channel = 0; channel < channels; channel++) {
            for (let dy = 0; dy < patch; dy++) {
              const from = (channel * size + row + dy) * size + column;
              for (let dx = 0; dx < patch; dx++) x.data[at++] = values[from + dx];
            }
          }
        }
      }
    }
    return x;
  }

  // Channels of one position become `patch` x `patch` positions (pixel_shuffle).
  pixelShuffle(x, patch) {
    const channels = x.channels / (patch * patch);
    const y = this.map(x.batch, x.height * patch, x.width * patch, channels);
    for (let line = 0; line < x.batch * x.height; line++) {
      for (let column = 0; column < x.width; column++) {
        let from = (line * x.width + column) * x.channels;
        for (let channel = 0; channel < channels; channel++) {
          for (let dy = 0; dy < patch; dy++) {
            for (let dx = 0; dx < patch; dx++) {
              const position = (line * patch + dy) * y.width + column * patch + dx;
              y.data[position * channels + channel] = x.data[from++];
            }
          }
        }
      }
    }
    return y;
  }

  // A feature map as PyTorch stores it, (batch, channels, height, width): a copy that outlives `release`.
  toImage(x) {
    const positions = x.height * x.width;
    const values = new Float32Array(x.data.length);
    for (let image = 0; image < x.batch; image++) {
      for (let position = 0; position < positions; position++) {
        const from = (image * positions + position) * x.channels;
        for (let channel = 0; channel < x.channels; channel++) {
          values[(image * x.channels + channel) * positions + position] = x.data[from + channel];
        }
      }
    }
    return values;
  }
}
