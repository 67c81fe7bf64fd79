// Pipelines: from a prompt to an image, with the same steps for every model.
//
// A pipeline has
//
//   prepare(request)  checks and encodes what was requested; returns {noise, denoise, times, path} for a sampler
//   decode(x)         makes an image (3, size, size) in [-1, 1] of what is diffused
//   stateToRGB(x)     shows what is diffused as it is: (3, h, w)
//   preview(x0)       shows an estimate of the clean image at once: the image, or something coarser that costs nothing

// Methods 1 to 3 (helpers/tiny_sd/model.py): the image itself is diffused, or the latents of an autoencoder.
class TinyStableDiffusion {
  // files: {unet, autoencoder} from readSafetensors; options: of the networks.
  constructor(files, { vocabulary }, options) {
    const { config, size, class_names, codec, latent_rgb_factors, shift } = JSON.parse(files.unet.metadata.model);
    this.config = config;
    this.size = size;
    this.classNames = class_names;
    this.unet = new TinyUNet(files.unet, config, options);
    this.path = new FlowPath(shift);
    this.tokenizer = config.vocab_size ? new WordTokenizer(vocabulary, config.caption_length) : null;
    this.codec = codec; // "pixels", or {mean, std} of the latents' channels
    this.rgbFactors = latent_rgb_factors; // of latents only: a preview
    if (files.autoencoder) {
      this.decoder = new Decoder(files.autoencoder, JSON.parse(files.autoencoder.metadata.model), options);
    }
    const factor = this.decoder ? downsamplingFactor(this.decoder.config) : 1;
    this.shape = [config.channels, size / factor, size / factor];
    this.clipped = !this.decoder; // pixels cannot leave [-1, 1], latents can
  }

  prepare({ prompt = "", negativePrompt = "", label = -1, scale, seed, steps }) {
    const text = this.tokenizer && this.unet.encodeText([prompt, negativePrompt].map((t) => this.tokenizer.encode(t)));
    const both = [label, -1]; // the unconditional prediction is for any class
    const evaluate = (x, t, count) =>
      this.unet.forward(x, t, both.slice(0, count), text && text.subarray(0, (text.length / 2) * count));
    const denoise = guidedDenoiser({ evaluate, path: this.path, prediction: "x0", scale, clipped: this.clipped });
    return { noise: noiseOf(this.shape, seed), denoise, times: this.path.times(steps), path: this.path };
  }

  // Every channel of the latents was normalised to mean 0 and variance 1 before it was diffused: undo that, and decode.
  decode(x) {
    if (!this.decoder) return clip(x);
    const { mean, std } = this.codec;
    const channel = (i) => Math.floor(i / (this.shape[1] * this.shape[2]));
    return this.decoder.forward(x.map((value, i) => value * std[channel(i)] + mean[channel(i)]));
  }

  // Latents have no colours: three of their channels stand for red, green and blue.
  stateToRGB(x) {
    if (!this.decoder) return x;
    return latentsToRGB(x, this.shape, [[0.4, 0, 0], [0, 0.4, 0], [0, 0, 0.4]]);
  }

  // The decoder takes as long as one or two evaluations of the network: too long for every step.
  preview(x0) {
    return this.decoder ? latentsToRGB(x0, this.shape, this.rgbFactors) : this.decode(x0);
  }
}

// Stable Diffusion 1 (helpers/sd1/pipeline.py) in its tiny size: text encoder, U-Net, decoder.
class StableDiffusion1 {
  constructor(files, _, options) {
    const { unet, size, latent_rgb_factors } = JSON.parse(files.unet.metadata.model);
    this.size = size;
    this.rgbFactors = latent_rgb_factors; // from a latent's channels to red, green and blue: a preview
    const clip = JSON.parse(files.text.metadata.model);
    this.tokenizer = new BytePairTokenizer(JSON.parse(clip.tokenizer));
    this.text = new TextTower(files.text, clip.text, options);
    this.unet = new SD1UNet(files.unet, unet, options);
    this.decoder = new Decoder(files.autoencoder, JSON.parse(files.autoencoder.metadata.model), options);
    this.path = new ScaledLinearPath();
    const factor = downsamplingFactor(this.decoder.config);
    this.shape = [unet.latent_channels, size / factor, size / factor];
    this.attention = { recorder: null };
    this.unet.onAttention = (...weights) => this.attention.recorder?.add(...weights);
  }

  // Records cross-attention from now on, in the finest feature maps that have it.
  recordAttention(prompt) {
    const { length } = this.tokenizer;
    const tokens = this.tokenizer.split(prompt).slice(0, length - 2);
    const finest = this.unet.config.attention.indexOf(true);
    this.attention.recorder = new AttentionRecorder(tokens, this.shape[1] / 2 ** finest);
    return this.attention.recorder;
  }

  prepare({ prompt = "", negativePrompt = "", scale, seed, steps }) {
    const states = this.text.forward([prompt, negativePrompt].map((text) => this.tokenizer.encode(text)));
    const evaluate = (x, t, count) => {
      const timestep = Math.round(t * this.path.T - 1);
      return this.unet.forward(x, timestep, states.subarray(0, (states.length / 2) * count), count);
    };
    const denoise = guidedDenoiser({ evaluate, path: this.path, prediction: "epsilon", scale, clipped: false });
    return { noise: noiseOf(this.shape, seed), denoise, times: this.path.times(steps), path: this.path };
  }

  decode(x) {
    return this.decoder.forward(x);
  }

  stateToRGB(x) {
    return latentsToRGB(x, this.shape, this.rgbFactors);
  }

  preview(x0) {
    return this.stateToRGB(x0);
  }
}

const PIPELINES = { tiny_sd: TinyStableDiffusion, sd1: StableDiffusion1 };

const noiseOf = ([channels, height, width], seed) => standardNormal(seed, channels * height * width);

// Red, green and blue of every position of a latent: (channels, h, w) and factors (channels, 3) to (3, h, w).
function latentsToRGB(x, [, height, width], factors) {
  const positions = height * width;
  const rgb = new Float32Array(3 * positions);
  factors.forEach((colours, channel) => {
    colours.forEach((factor, colour) => {
      for (let i = 0; i < positions; i++) rgb[colour * positions + i] += factor * x[channel * positions + i];
    });
  });
  return rgb;
}

// How many times smaller than the image the latents are, per side.
const downsamplingFactor = ({ patch, multipliers }) => patch * 2 ** (multipliers.length - 1);

// All states from noise to data: a generator of {t, x, x0}.
function sampleSteps(pipeline, request) {
  const { noise, denoise, times, path } = pipeline.prepare(request);
  return SAMPLERS[request.sampler](denoise, noise, times, path);
}
