// Noise schedules: every state is x_t = alpha_t x_0 + sigma_t eps, with data at t = 0 and noise at t = 1.
//
// helpers/diffusion/schedules.py in JavaScript. A path gives alpha and sigma at a time, and the times at which a
// sampler evaluates the network. `Math.fround` rounds to single precision where PyTorch holds single precision.

const { fround } = Math;

// torch.linspace(start, end, count) in single precision: from both ends towards the middle.
function linspace(start, end, count) {
  const step = fround((end - start) / (count - 1));
  return Float32Array.from({ length: count }, (_, i) =>
    i < count / 2 ? start + fround(step * i) : end - fround(step * (count - 1 - i)),
  );
}

// Rectified flow (Liu et al. 2022, eq. 1): a straight line from data to noise. Methods 1 to 3 are trained with it.
class FlowPath {
  // shift > 1: more of the times at high noise (SD3, eq. 23).
  constructor(shift = 1) {
    this.shift = shift;
  }

  alphaSigma(t) {
    const shifted = fround(Math.min((this.shift * t) / (1 + (this.shift - 1) * t), 1));
    return [fround(1 - shifted), shifted];
  }

  // From 1 to 0 in equal steps.
  times(steps) {
    return linspace(1, 0, steps + 1);
  }
}

// Stable Diffusion's schedule (DDPM with T = 1000): the square root of beta grows linearly.
class ScaledLinearPath {
  constructor(T = 1000, first = 0.00085, last = 0.012) {
    this.T = T;
    this.alphasBar = [1]; // alphasBar[k]: what is left of the data's variance after k steps of noise
    const step = (Math.sqrt(last) - Math.sqrt(first)) / (T - 1);
    for (let k = 0; k < T; k++) {
      const beta = ((Math.sqrt(first) + step * k) ** 2 * 1000) / T;
      this.alphasBar.push(this.alphasBar[k] * (1 - beta));
    }
  }

  // Between two of the T steps alphaBar is interpolated.
  alphaSigma(t) {
    const position = Math.min(Math.max(fround(t), 0), 1) * this.T;
    const below = Math.min(Math.floor(position), this.T - 1);
    const left = this.alphasBar[below];
    const alphaBar = left + (position - below) * (this.alphasBar[below + 1] - left);
    return [fround(Math.sqrt(alphaBar)), fround(Math.sqrt(1 - alphaBar))];
  }

  // The original's ("leading") timesteps 1, 1 + k, 1 + 2k, ...; the last step ends at timestep 0.
  // The U-Net's timestep n is the state after n + 1 steps of noise, hence t = (n + 1) / 1000.
  times(steps) {
    const stride = Math.floor(this.T / steps);
    const timesteps = Array.from({ length: steps }, (_, i) => (steps - 1 - i) * stride + 1);
    return Float32Array.from([...timesteps, 0], (n) => (n + 1) / this.T);
  }
}
