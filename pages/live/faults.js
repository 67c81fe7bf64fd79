// Break it: mistakes that were really published, each as a pipeline with one thing wrong.
//
// A broken pipeline inherits everything from the right one (Object.create) and replaces what the mistake is about.

const broken = (original, replaced) => Object.assign(Object.create(original), replaced);

const FAULTS = {
  // The two captions of guidance swapped: implementations differ in which of the two comes first in the batch.
  swapped: (pipeline) =>
    broken(pipeline, {
      prepare({ prompt, negativePrompt, ...request }) {
        return pipeline.prepare({ ...request, prompt: negativePrompt, negativePrompt: prompt });
      },
    }),

  // Classes never dropped in training: the vector of "any class" still holds the random numbers that it began with, so
  // guidance extrapolates from a prediction that means nothing.
  dropout: (pipeline) =>
    broken(pipeline, {
      unet: broken(pipeline.unet, {
        forward(...request) {
          const table = pipeline.unet.vector("classes.weight");
          const untrained = table.slice();
          const width = pipeline.config.condition_width;
          untrained.set(standardNormal(0, width), table.length - width); // the last row stands for "any class"
          pipeline.unet.vectors.set("classes.weight", untrained);
          try {
            return pipeline.unet.forward(...request);
          } finally {
            pipeline.unet.vectors.set("classes.weight", table);
          }
        },
      }),
    }),

  // t in [0, 1] given to a network that expects 0 to 1000: it takes every state for a nearly clean image.
  time: (pipeline) =>
    broken(pipeline, {
      unet: broken(pipeline.unet, {
        forward: (x, t, ...conditions) => pipeline.unet.forward(x, t / 1000, ...conditions),
      }),
    }),

  // Uniform noise where it should be normal (torch.rand for torch.randn): a state that training never showed.
  noise: (pipeline) =>
    broken(pipeline, {
      prepare(request) {
        const prepared = pipeline.prepare.call(this, request);
        return { ...prepared, noise: prepared.noise.map((value) => gelu(value) / value) }; // gelu(x) / x is Phi(x)
      },
    }),

  // Estimates of x_0 not clipped to [-1, 1]: with much guidance they leave that range, step after step. Pixels only.
  unclipped: (pipeline) => broken(pipeline, { clipped: false }),

  // Latents were scaled to unit variance before they were diffused; this decoder does not undo it.
  scaling: (pipeline) =>
    broken(pipeline, {
      decoder: broken(pipeline.decoder, { config: { ...pipeline.decoder.config, scale: 1 } }),
    }),

  // An image in [-1, 1] saved as if it were in [0, 1]: everything darker than middle grey becomes black.
  range: (pipeline) =>
    broken(pipeline, {
      decode: (x) => pipeline.decode(x).map((value) => 2 * Math.max(value, 0) - 1),
    }),
};

// The pipeline, or with the name of a fault a broken one.
const withFault = (pipeline, fault) => (fault ? FAULTS[fault](pipeline) : pipeline);
