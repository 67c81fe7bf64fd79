// The network of Methods 1 to 3: a small U-Net (helpers/tiny_sd/unet.py), read from bottom to top there as here.

// Group norms have the most groups, up to 32, that leave at least four channels each.
function groupCount(channels) {
  return [32, 24, 16, 12, 8, 4, 2, 1].find((groups) => channels % groups === 0 && channels / groups >= 4);
}

class TinyUNet extends Network {
  constructor(file, config, options) {
    super(file, options);
    this.config = config;
  }

  // Token ids to contextual embeddings, one transformer layer: once per caption. Rows of text_width numbers, copied.
  encodeText(captions) {
    const width = this.config.text_width;
    const x = embedTokens(this, captions, "text.token_embedding.weight", "text.positions");
    const qkv = this.linear(this.layerNorm(x, "text.layer.norm1"), "text.layer.self_attn.in_proj");
    const [q, k, v] = [0, width, 2 * width].map((from) => ({ map: qkv, from }));
    const mixed = this.attend(q, k, v, { width, heads: 4 });
    this.add(x, this.linear(mixed, "text.layer.self_attn.out_proj"));
    const hidden = this.linear(this.layerNorm(x, "text.layer.norm2"), "text.layer.linear1");
    this.add(x, this.linear(this.activate(hidden, "gelu"), "text.layer.linear2"));
    const embeddings = this.layerNorm(x, "text.norm").data.slice();
    this.release();
    return embeddings;
  }

  // The network's output at a state x, (channels, size, size), for several conditions at once.
  //
  //   t        in [0, 1]
  //   labels   one class per condition; -1 is "any class"
  //   text     encodeText of one caption per condition, or null in a network without captions
  //
  // Returns (conditions, channels, size, size).
  forward(x, t, labels, text) {
    const { channels, patch, widths, blocks } = this.config;
    const batch = labels.length;
    const condition = this.embedCondition(t, labels);
    const context = text && this.fromRows(text, batch, this.config.text_width);

    let h = this.conv3x3(this.fromImage(x, { channels, patch, copies: batch }), "stem");
    const skips = [];
    for (let level = 0; level < widths.length; level++) {
      if (level > 0) h = this.conv3x3(h, `downsample.${level - 1}`, 2);
      for (let i = 0; i < blocks; i++) {
        h = this.block(h, `down.${level}`, i, condition, context);
        skips.push(h);
      }
    }
    for (let i = 0; i < 2; i++) h = this.block(h, "middle", i, condition, context);
    for (let level = widths.length - 1; level >= 0; level--) {
      for (let i = 0; i < blocks; i++) {
        const joined = this.concatenate(h, skips.pop());
        h = this.block(joined, `up.${level}`, i, condition, context);
      }
      if (level > 0) h = this.upsample(this.linear(h, `upsample.${level - 1}`));
    }
    h = this.groupNorm(h, "norm", { groups: groupCount(h.channels), activate: true });
    const detailed = this.has("detail.0.weight");
    const output = detailed ? this.withDetail(h, x) : this.withoutDetail(h);
    const image = this.toImage(output);
    this.release();
    return image;
  }

  withoutDetail(h) {
    return this.pixelShuffle(this.conv3x3(h, "head"), this.config.patch);
  }

  // A narrow level at nearly full resolution, which sees the noisy image beside the output: detail that the stem's
  // patches cannot carry.
  withDetail(h, image) {
    const { channels, patch, detail_patch } = this.config;
    h = this.pixelShuffle(this.linear(h, "head"), patch / detail_patch);
    const noisy = this.fromImage(image, { channels, patch: detail_patch, copies: h.batch });
    h = this.activate(this.conv3x3(this.concatenate(noisy, h), "detail.0"), "silu");
    return this.pixelShuffle(this.conv3x3(h, "detail.2"), detail_patch);
  }

  // Time and class as one vector per condition, which reaches every residual block.
  embedCondition(t, labels) {
    const { widths, classes } = this.config;
    const sinusoids = timestepEmbedding(this, Math.fround(1000 * Math.fround(t)), labels.length, widths[0]);
    const hidden = this.activate(this.linear(sinusoids, "time.layers.0"), "silu");
    const condition = this.linear(hidden, "time.layers.2");
    const table = this.vector("classes.weight");
    const width = condition.channels;
    labels.forEach((label, image) => {
      const row = label === -1 ? classes : label; // the last row stands for "any class"
      for (let i = 0; i < width; i++) condition.data[image * width + i] += table[row * width + i];
    });
    return this.activate(condition, "silu");
  }

  // A residual block, and a transformer block where the resolution has attention.
  block(x, name, i, condition, context) {
    const h = this.keep(() => this.residualBlock(x, `${name}.residual.${i}`, condition));
    const transformer = `${name}.transformer.${i}`;
    if (!this.has(`${transformer}.norm_1.weight`)) return h;
    return this.keep(() => this.transformerBlock(h, transformer, context));
  }

  // Norm, SiLU, convolution, twice; the second norm is scaled and shifted by the condition.
  residualBlock(x, name, condition) {
    const scaleShift = this.linear(condition, `${name}.scale_shift`);
    const groups = groupCount(x.channels);
    let h = this.groupNorm(x, `${name}.norm_1`, { groups, activate: true });
    h = this.conv3x3(h, `${name}.conv_1`);
    const options = { groups: groupCount(h.channels), activate: true, scaleShift };
    h = this.groupNorm(h, `${name}.norm_2`, options);
    h = this.conv3x3(h, `${name}.conv_2`);
    const skip = this.has(`${name}.skip.weight`) ? this.linear(x, `${name}.skip`) : x;
    return this.add(h, skip);
  }

  // Self-attention over the positions, cross-attention to the caption where there is one, and an MLP; each adds to x.
  transformerBlock(x, name, context) {
    const heads = x.channels / this.config.head_width;
    const y = this.copy(x);
    const normalised = this.layerNorm(y, `${name}.norm_1`);
    this.add(y, this.attention(normalised, normalised, `${name}.self_attention`, { heads }));
    if (context) {
      this.add(y, this.attention(this.layerNorm(y, `${name}.norm_2`), context, `${name}.cross_attention`, { heads }));
    }
    const hidden = this.activate(this.linear(this.layerNorm(y, `${name}.norm_3`), `${name}.mlp.0`), "gelu");
    return this.add(y, this.linear(hidden, `${name}.mlp.2`));
  }
}
