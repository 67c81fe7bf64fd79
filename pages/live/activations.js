// Activation functions: what makes a network more than one large product of matrices.

const silu = (x) => x / (1 + Math.exp(-x)); // x sigmoid(x)
const quickGelu = (x) => x / (1 + Math.exp(-1.702 * x)); // OpenAI's approximation of GELU, which CLIP was trained with

// x Phi(x), with Phi the normal distribution's cumulative probability (1 + erf(x / sqrt 2)) / 2; erf to 1.5e-7 after
// Abramowitz & Stegun 7.1.26.
function gelu(x) {
  const z = Math.abs(x) * Math.SQRT1_2;
  const t = 1 / (1 + 0.3275911 * z);
  const polynomial = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  const erf = 1 - polynomial * Math.exp(-z * z);
  return 0.5 * x * (1 + (x < 0 ? -erf : erf));
}
