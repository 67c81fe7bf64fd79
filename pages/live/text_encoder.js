// CLIP's text encoder (helpers/text/clip.py): token ids to hidden states, by a transformer with causal attention.

class TextTower extends Network {
  constructor(file, config, options) {
    super(file, options);
    this.config = config;
  }

  // One list of token ids per text -> rows of `width` numbers, one per token: the hidden states after the final norm.
  forward(captions) {
    const { heads, layers } = this.config;
    const x = embedTokens(this, captions, "text.tokens.weight", "text.positions");
    for (let i = 0; i < layers; i++) {
      const name = `text.layers.${i}`;
      const normalised = this.layerNorm(x, `${name}.norm_1`);
      this.add(x, this.attention(normalised, normalised, `${name}.attention`, { heads, causal: true }));
      const hidden = this.linear(this.layerNorm(x, `${name}.norm_2`), `${name}.mlp.0`);
      this.add(x, this.linear(this.activate(hidden, "quickGelu"), `${name}.mlp.2`));
    }
    const states = this.layerNorm(x, "text.norm").data.slice();
    this.release();
    return states;
  }
}
