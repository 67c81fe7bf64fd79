// Which word acts where: the cross-attention maps of Stable Diffusion 1 (notebook 05).
//
// In cross-attention every position of the feature map takes a weighted mean of the caption's tokens. These weights,
// averaged over steps, layers and heads, say which part of the image a word has shaped.

class AttentionRecorder {
  // tokens: of the caption, without start, end and padding; size: side of the feature maps that are recorded.
  constructor(tokens, size) {
    this.tokens = tokens;
    this.size = size;
    this.sums = new Float32Array(tokens.length * size * size);
    this.count = 0;
  }

  // One head's weights: a row per position, a column per token. The first image of the batch is the conditional one.
  add(image, weights, stride, map) {
    if (image > 0 || map.height !== this.size) return;
    const positions = this.size * this.size;
    for (let token = 0; token < this.tokens.length; token++) {
      for (let position = 0; position < positions; position++) {
        this.sums[token * positions + position] += weights[position * stride + token + 1]; // after the start token
      }
    }
    this.count += 1;
  }

  // The mean weights, (tokens, size, size).
  maps() {
    return this.sums.map((sum) => sum / Math.max(this.count, 1));
  }
}
