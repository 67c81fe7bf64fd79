// From a network's output to what a sampler needs: classifier-free guidance and the estimates of image and noise.

// unconditional + scale (conditional - unconditional) (Ho & Salimans 2022, eq. 6): scale 1 is the plain prediction,
// more exaggerates what the caption changes. `batch` holds both predictions, the conditional one first.
function applyGuidance(batch, scale) {
  const size = batch.length / 2;
  const conditional = batch.subarray(0, size);
  const unconditional = batch.subarray(size);
  return linearCombination([scale, conditional], [1 - scale, unconditional]);
}

const SMALLEST_DIVISOR = 1e-3; // alpha is 0 at pure noise, sigma 0 at clean data: keeps a division finite there

// A network predicts the clean image ("x0") or the noise ("epsilon"); x = alpha x0 + sigma eps gives the other.
function convertPrediction(type, prediction, x, alpha, sigma) {
  if (type === "epsilon") {
    const divisor = Math.max(alpha, SMALLEST_DIVISOR);
    return { x0: linearCombination([1 / divisor, x], [-sigma / divisor, prediction]), eps: prediction };
  }
  const divisor = Math.max(sigma, SMALLEST_DIVISOR);
  return { x0: prediction, eps: linearCombination([1 / divisor, x], [-alpha / divisor, prediction]) };
}

function clip(values) {
  const clipped = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) clipped[i] = Math.min(1, Math.max(-1, values[i]));
  return clipped;
}

// The denoiser that a sampler calls.
//
//   evaluate(x, t, count)  the network at `count` copies of the state, one after another in the result: the conditional
//                          prediction and, for 2, the unconditional one
//   prediction             what it predicts: "x0" or "epsilon"
//   clipped                estimates of x0 are clipped to [-1, 1], as in DDPM's code: pixels cannot leave that range
function guidedDenoiser({ evaluate, path, prediction, scale, clipped }) {
  return function denoise(x, t) {
    const output = scale === 1 ? evaluate(x, t, 1) : applyGuidance(evaluate(x, t, 2), scale);
    const [alpha, sigma] = path.alphaSigma(t);
    const estimates = convertPrediction(prediction, output, x, alpha, sigma);
    return clipped ? convertPrediction("x0", clip(estimates.x0), x, alpha, sigma) : estimates;
  };
}
