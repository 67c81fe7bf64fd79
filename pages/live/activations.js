// Activation functions: what makes a network more than one large product of matrices.

const silu = (x) => x / (1 + Math.exp(-x)); // x sigmoid(x)
const quickGelu = (x) => x / (1 + Math.exp(-1.702 * x)); // OpenAI's approximation of GELU, which CLIP was trained with

// erf(z) = 1 - t (ERF, a polynomial of t, highest power first) exp(-z^2) with t = 1 / (1 + ERF_SCALE z), for z >= 0, to
// 1.5e-7 (Abramowitz & Stegun 7.1.26).
const ERF_SCALE = 0.3275911;
const ERF = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];

// x Phi(x), with Phi the normal distribution's cumulative probability (1 + erf(x / sqrt 2)) / 2.
function gelu(x) {
  const z = Math.abs(x) * Math.SQRT1_2;
  const t = 1 / (1 + ERF_SCALE * z);
  const erf = 1 - t * ERF.reduce((sum, coefficient) => sum * t + coefficient) * Math.exp(-z * z);
  return 0.5 * (x + Math.abs(x) * erf);
}
