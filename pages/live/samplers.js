// Samplers: from noise to an image, step by step.
//
// helpers/diffusion/samplers.py in JavaScript, with the same names. A sampler calls denoise(x, t), which returns the
// network's estimates {x0, eps} of the clean image and of the noise in x, and takes a step. Samplers are generators
// that yield {t, x, x0} after every step, so that a page can show the states while they come.

// a x + b y + ..., of arrays of equal length: linearCombination([a, x], [b, y], ...).
function linearCombination(...terms) {
  const result = new Float32Array(terms[0][1].length);
  for (const [factor, values] of terms) {
    for (let i = 0; i < result.length; i++) result[i] += factor * values[i];
  }
  return result;
}

// Neighbouring times, with the path's coefficients at both.
function* intervals(times, path) {
  for (let i = 0; i + 1 < times.length; i++) {
    if (!(times[i] > times[i + 1])) throw new RangeError(`times must decrease from 1 (noise) to 0 (data): ${times}`);
    const [alpha, sigma] = path.alphaSigma(times[i]);
    const [alphaNext, sigmaNext] = path.alphaSigma(times[i + 1]);
    yield { t: times[i], alpha, sigma, tNext: times[i + 1], alphaNext, sigmaNext };
  }
}

// DDIM (Song et al. 2020, eq. 12, with eta = 0): to the estimated image plus the estimated noise, less of it.
function* ddim(denoise, x, times, path) {
  for (const { t, tNext, alphaNext, sigmaNext } of intervals(times, path)) {
    const { x0, eps } = denoise(x, t);
    x = linearCombination([alphaNext, x0], [sigmaNext, eps]);
    yield { t: tNext, x, x0 };
  }
}

// Euler's method: hold both estimates over the step. On a flow path it is x' = x + (t' - t) v.
function* euler(denoise, x, times, path) {
  for (const interval of intervals(times, path)) {
    const { t, alpha, sigma, tNext, alphaNext, sigmaNext } = interval;
    const { x0, eps } = denoise(x, t);
    x = linearCombination([1, x], [alphaNext - alpha, x0], [sigmaNext - sigma, eps]);
    yield { t: tNext, x, x0 };
  }
}

// Heun's method (EDM, algorithm 1): an Euler step, a look from there, and a step by the mean of both estimates.
// Two evaluations of the network a step; clean data (sigma = 0) has no noise to estimate, so the last step has one.
function* heun(denoise, x, times, path) {
  for (const { t, alpha, sigma, tNext, alphaNext, sigmaNext } of intervals(times, path)) {
    const here = denoise(x, t);
    const dAlpha = alphaNext - alpha;
    const dSigma = sigmaNext - sigma;
    const ahead = linearCombination([1, x], [dAlpha, here.x0], [dSigma, here.eps]);
    if (sigmaNext > 0) {
      const there = denoise(ahead, tNext);
      const x0 = linearCombination([0.5, here.x0], [0.5, there.x0]);
      const eps = linearCombination([0.5, here.eps], [0.5, there.eps]);
      x = linearCombination([1, x], [dAlpha, x0], [dSigma, eps]);
    } else {
      x = ahead;
    }
    yield { t: tNext, x, x0: here.x0 };
  }
}

// DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): exact in the part that is linear in x; the estimate of the clean
// image is extrapolated from this step's and the last one's, in h, the step's length in log(alpha / sigma). That length
// is infinite where alpha or sigma is 0, at both ends of the path: there the step is first-order.
function* dpmSolverPP2M(denoise, x, times, path) {
  let previous = null;
  let hPrevious = Infinity;
  for (const interval of intervals(times, path)) {
    const { t, alpha, sigma, tNext, alphaNext, sigmaNext } = interval;
    const { x0 } = denoise(x, t);
    const finite = alpha > 0 && sigmaNext > 0;
    const h = finite ? Math.log((alphaNext * sigma) / (sigmaNext * alpha)) : Infinity;
    let x0Middle = x0; // at the middle of the step
    if (previous && Number.isFinite(h) && Number.isFinite(hPrevious)) {
      const slope = h / (2 * hPrevious);
      x0Middle = linearCombination([1 + slope, x0], [-slope, previous]);
    }
    const keep = sigmaNext / sigma;
    x = linearCombination([keep, x], [alphaNext - keep * alpha, x0Middle]);
    previous = x0;
    hPrevious = h;
    yield { t: tNext, x, x0 };
  }
}

const SAMPLERS = { ddim, euler, heun, dpm_solver_pp_2m: dpmSolverPP2M };
