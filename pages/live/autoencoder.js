// The decoder of an autoencoder: latents to an image (helpers/autoencoders/kl.py). Generating needs no encoder.

// Norm, SiLU, convolution, twice, added to the input; with a time embedding added in between where there is one.
// Stable Diffusion's U-Net and its autoencoder share this block; the epsilon of their norms differs.
function resnetBlock(network, x, name, options) {
  return network.keep(() => residual(network, x, name, options));
}

function residual(network, x, name, { groups, epsilon, time = null }) {
  let h = network.groupNorm(x, `${name}.norm_1`, { groups, epsilon, activate: true });
  h = network.conv3x3(h, `${name}.conv_1`);
  if (time) network.addToPositions(h, network.linear(time, `${name}.time`));
  h = network.groupNorm(h, `${name}.norm_2`, { groups, epsilon, activate: true });
  h = network.conv3x3(h, `${name}.conv_2`);
  return network.add(h, network.has(`${name}.skip.weight`) ? network.linear(x, `${name}.skip`) : x);
}

class Decoder extends Network {
  constructor(file, config, options) {
    super(file, options);
    this.config = config;
    this.norm = { groups: config.groups, epsilon: 1e-6 };
  }

  // Latents (channels, h, w), as they are diffused, to an image (3, H, W) in [-1, 1].
  forward(latents) {
    const { scale, shift, latent_channels, multipliers, blocks, patch } = this.config;
    const unscaled = latents.map((value) => value / scale + shift);
    let h = this.fromImage(unscaled, { channels: latent_channels });
    if (this.has("post_quant.weight")) h = this.linear(h, "post_quant");
    h = this.middle(this.conv3x3(h, "decoder.stem"));
    for (let level = 0; level < multipliers.length; level++) {
      const name = `decoder.up.${level}`;
      for (let i = 0; i < blocks + 1; i++) h = resnetBlock(this, h, `${name}.residual.${i}`, this.norm);
      if (level < multipliers.length - 1) h = this.conv3x3(this.upsample(h), `${name}.resample.conv`);
    }
    h = this.groupNorm(h, "decoder.norm", { ...this.norm, activate: true });
    const image = clip(this.toImage(this.pixelShuffle(this.conv3x3(h, "decoder.head"), patch)));
    this.release();
    return image;
  }

  // Residual block, attention over all positions, residual block: only here can one corner depend on the opposite one.
  middle(x) {
    const h = resnetBlock(this, x, "decoder.middle.0", this.norm);
    const normalised = this.groupNorm(h, "decoder.middle.1.norm", this.norm);
    this.add(h, this.attention(normalised, normalised, "decoder.middle.1.attention", { heads: 1 }));
    return resnetBlock(this, h, "decoder.middle.2", this.norm);
  }
}
