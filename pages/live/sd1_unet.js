// The U-Net of Stable Diffusion 1 (helpers/sd1/unet.py): predicts the noise in a latent.

class SD1UNet extends Network {
  constructor(file, config, options) {
    super(file, options);
    this.config = config;
    this.onAttention = null; // (image, weights, stride, map): is shown the weights of every cross-attention head
  }

  // The noise in a latent x, (channels, size, size), for several prompts at once.
  //
  //   timestep   0 to 999
  //   text       hidden states of the prompts, one after another
  //   batch      how many prompts
  //
  // Returns (batch, channels, size, size).
  forward(x, timestep, text, batch) {
    const { latent_channels, multipliers, blocks, text_width, width, groups } = this.config;
    const context = this.fromRows(text, batch, text_width);
    const time = this.embedTime(timestep, batch, width);

    let h = this.conv3x3(this.fromImage(x, { channels: latent_channels, copies: batch }), "stem");
    const skips = [h];
    for (let level = 0; level < multipliers.length; level++) {
      const name = `down.${level}`;
      for (let i = 0; i < blocks; i++) {
        h = this.block(h, name, i, time, context);
        skips.push(h);
      }
      if (this.has(`${name}.resample.conv.weight`)) {
        h = this.conv3x3(h, `${name}.resample.conv`, 2);
        skips.push(h);
      }
    }
    h = resnetBlock(this, h, "middle.0", { groups, time });
    h = this.spatialTransformer(h, "middle.1", context);
    h = resnetBlock(this, h, "middle.2", { groups, time });
    for (let level = 0; level < multipliers.length; level++) {
      const name = `up.${level}`;
      for (let i = 0; i < blocks + 1; i++) h = this.block(this.concatenate(h, skips.pop()), name, i, time, context);
      if (this.has(`${name}.resample.conv.weight`)) h = this.conv3x3(this.upsample(h), `${name}.resample.conv`);
    }
    h = this.groupNorm(h, "norm", { groups, activate: true });
    const noise = this.toImage(this.conv3x3(h, "head"));
    this.release();
    return noise;
  }

  embedTime(timestep, batch, width) {
    const hidden = this.activate(this.linear(timestepEmbedding(this, timestep, batch, width), "time.0"), "silu");
    return this.activate(this.linear(hidden, "time.2"), "silu");
  }

  block(x, name, i, time, context) {
    const h = resnetBlock(this, x, `${name}.residual.${i}`, { groups: this.config.groups, time });
    const transformer = `${name}.transformer.${i}`;
    return this.has(`${transformer}.norm.weight`) ? this.spatialTransformer(h, transformer, context) : h;
  }

  // A transformer block over the positions, between two projections.
  spatialTransformer(x, name, context) {
    return this.keep(() => this.transformerBlock(x, name, context));
  }

  transformerBlock(x, name, context) {
    const { groups, heads } = this.config;
    const block = `${name}.block`;
    const normalised = this.groupNorm(x, `${name}.norm`, { groups, epsilon: 1e-6 }); // 1e-5 in the residual blocks
    const y = this.linear(normalised, `${name}.proj_in`);

    const queries = this.layerNorm(y, `${block}.norm_1`);
    this.add(y, this.attention(queries, queries, `${block}.self_attention`, { heads }));
    const onWeights = (image, head, weights, stride) => this.onAttention?.(image, weights, stride, y);
    const cross = { heads, onWeights };
    this.add(y, this.attention(this.layerNorm(y, `${block}.norm_2`), context, `${block}.cross_attention`, cross));
    this.add(y, this.gatedMLP(this.layerNorm(y, `${block}.norm_3`), `${block}.mlp`));
    return this.add(this.linear(y, `${name}.proj_out`), x);
  }

  // a * GELU(b), with a and b two halves of one projection (GEGLU; Shazeer 2020).
  gatedMLP(x, name) {
    const both = this.linear(x, `${name}.proj`);
    const width = both.channels / 2;
    const gate = this.activate(this.channelRange(both, width, width), "gelu");
    for (let row = 0; row < both.rows; row++) {
      const start = row * both.channels;
      for (let i = 0; i < width; i++) gate.data[row * width + i] *= both.data[start + i];
    }
    return this.linear(gate, `${name}.out`);
  }
}
