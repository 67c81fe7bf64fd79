// Operations on every number of a feature map: activation functions, the scaling of a norm, softmax, and copying.
//
// They are cheap beside the products of matrices, but in JavaScript they would take a third of the time, because
// `Math.exp` takes one number at a time. Each is written twice: for four numbers at a time in WebAssembly, and below in
// plain JavaScript, which is easier to read and runs where there is no WebAssembly SIMD.

// --- four numbers at a time ----------------------------------------------------------------------------------------

// The Taylor series of e^r around 0, highest power first: 1/6!, 1/5!, ..., 1/1!, 1/0!.
const EXPONENTIAL = [1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1, 1];
// ln 2 as a sum, of which the first part has so few digits that n times it is exact.
const LN2 = [0.693359375, -2.1219444e-4];

// coefficients[0] x^n + ... + coefficients[n] (Horner's scheme).
const polynomial = (x, [first, ...others]) => others.reduce((sum, c) => plus(times(sum, x), four(c)), four(first));

// Leaves e^x in the variable "e". With n the whole number nearest to x / ln 2 and r = x - n ln 2, e^x = 2^n e^r. The
// rest r lies within 0.35 of 0, where seven terms of the series are exact to single precision.
const exponential = (x, { get, set }) => [
  ...set("e", larger(smaller(x, four(88)), four(-87))), // beyond, single precision ends
  ...set("n", nearest(times(get("e"), four(Math.LOG2E)))),
  ...set("e", minus(minus(get("e"), times(get("n"), four(LN2[0]))), times(get("n"), four(LN2[1])))),
  ...set("e", times(polynomial(get("e"), EXPONENTIAL), powerOfTwo(get("n")))),
];

// What replaces the variable "x".
const VECTOR_ACTIVATIONS = {
  none: () => [],
  silu: (v) => [
    ...exponential(minus(four(0), v.get("x")), v),
    ...v.set("x", over(v.get("x"), plus(four(1), v.get("e")))),
  ],
  quickGelu: (v) => [
    ...exponential(times(v.get("x"), four(-1.702)), v),
    ...v.set("x", over(v.get("x"), plus(four(1), v.get("e")))),
  ],
  // x (1 + erf(x / sqrt 2)) / 2 = (x + |x| erf(|x| / sqrt 2)) / 2, because erf is odd
  gelu: (v) => [
    ...v.set("z", times(absolute(v.get("x")), four(Math.SQRT1_2))),
    ...exponential(minus(four(0), times(v.get("z"), v.get("z"))), v),
    ...v.set("t", over(four(1), plus(four(1), times(four(ERF_SCALE), v.get("z"))))),
    ...v.set("t", minus(four(1), times(times(v.get("t"), polynomial(v.get("t"), ERF)), v.get("e")))), // erf
    ...v.set("x", times(four(0.5), plus(v.get("x"), times(absolute(v.get("x")), v.get("t"))))),
  ],
};

// name(x, count): an activation function of `count` numbers, in place.
function activationFunction(name) {
  const variables = { parameters: ["address", "count"], integers: ["end"], vectors: ["x", "e", "n", "z", "t"] };
  return defineFunction(name, variables, (v) => [
    ...v.set("end", add(v.get("address"), multiply(v.get("count"), constant(4)))),
    ...loopWhile(lessThan(v.get("address"), v.get("end")), [
      ...v.set("x", load(v.get("address"), 0)),
      ...VECTOR_ACTIVATIONS[name](v),
      ...store(v.get("address"), 0, v.get("x")),
      ...v.increase("address", constant(16)),
    ]),
  ]);
}

// scale(x, y, factors, offsets, rows, channels): y = x * factor + offset, with a factor and an offset per channel; and
// scaleSilu: the same, and SiLU of it.
function scaleFunction(name, activation) {
  const variables = {
    parameters: ["input", "output", "factors", "offsets", "rows", "channels"],
    integers: ["channel", "bytes", "row"],
    vectors: ["x", "e", "n"],
  };
  return defineFunction(name, variables, (v) => [
    ...v.set("bytes", multiply(v.get("channels"), constant(4))),
    ...loopWhile(lessThan(v.get("row"), v.get("rows")), [
      ...v.set("channel", constant(0)),
      ...loopWhile(lessThan(v.get("channel"), v.get("bytes")), [
        ...v.set("x", times(load(v.get("input"), 0), load(add(v.get("factors"), v.get("channel")), 0))),
        ...v.set("x", plus(v.get("x"), load(add(v.get("offsets"), v.get("channel")), 0))),
        ...VECTOR_ACTIVATIONS[activation](v),
        ...store(v.get("output"), 0, v.get("x")),
        ...["input", "output", "channel"].flatMap((name) => v.increase(name, constant(16))),
      ]),
      ...v.increase("row", constant(1)),
    ]),
  ]);
}

// softmax(scores, rows, columns): every row to weights that sum to 1, in place.
function softmaxFunction() {
  const variables = {
    parameters: ["start", "rows", "columns"],
    integers: ["row", "at", "end"],
    vectors: ["largest", "sum", "e", "n"],
  };
  return defineFunction("softmax", variables, (v) => {
    const acrossRow = (body) => [
      ...v.set("at", v.get("start")),
      ...loopWhile(lessThan(v.get("at"), v.get("end")), [...body, ...v.increase("at", constant(16))]),
    ];
    return loopWhile(lessThan(v.get("row"), v.get("rows")), [
      ...v.set("end", add(v.get("start"), multiply(v.get("columns"), constant(4)))),
      ...v.set("largest", load(v.get("start"), 0)),
      ...acrossRow(v.set("largest", larger(v.get("largest"), load(v.get("at"), 0)))),
      ...acrossLanes(larger, v.get("largest"), "largest", v),
      ...v.set("sum", four(0)),
      ...acrossRow([
        ...exponential(minus(load(v.get("at"), 0), v.get("largest")), v),
        ...store(v.get("at"), 0, v.get("e")),
        ...v.set("sum", plus(v.get("sum"), v.get("e"))),
      ]),
      ...acrossLanes(plus, v.get("sum"), "sum", v),
      ...acrossRow(store(v.get("at"), 0, over(load(v.get("at"), 0), v.get("sum")))),
      ...v.set("start", v.get("end")),
      ...v.increase("row", constant(1)),
    ]);
  });
}

// copyRows(source, sourceStride, target, targetStride, rows, length): rows that lie `stride` bytes apart.
function copyFunction() {
  const variables = {
    parameters: ["source", "sourceStride", "target", "targetStride", "rows", "length"],
    integers: ["row", "at"],
  };
  return defineFunction("copyRows", variables, (v) =>
    loopWhile(lessThan(v.get("row"), v.get("rows")), [
      ...v.set("at", constant(0)),
      ...loopWhile(lessThan(v.get("at"), v.get("length")), [
        ...store(add(v.get("target"), v.get("at")), 0, load(add(v.get("source"), v.get("at")), 0)),
        ...v.increase("at", constant(16)),
      ]),
      ...v.increase("source", v.get("sourceStride")),
      ...v.increase("target", v.get("targetStride")),
      ...v.increase("row", constant(1)),
    ]),
  );
}

const elementwiseFunctions = () => [
  ...["silu", "gelu", "quickGelu"].map(activationFunction),
  scaleFunction("scale", "none"),
  scaleFunction("scaleSilu", "silu"),
  softmaxFunction(),
  copyFunction(),
];

// --- the same in JavaScript ----------------------------------------------------------------------------------------

function elementwiseInJavaScript(numbers) {
  const activate = (activation) => (address, count) => {
    for (let i = address / 4; i < address / 4 + count; i++) numbers[i] = activation(numbers[i]);
  };
  const scale = (activation) => (input, output, factors, offsets, rows, channels) => {
    for (let i = 0; i < rows * channels; i++) {
      const channel = i % channels;
      const x = numbers[input / 4 + i] * numbers[factors / 4 + channel] + numbers[offsets / 4 + channel];
      numbers[output / 4 + i] = activation(x);
    }
  };
  return {
    silu: activate(silu),
    gelu: activate(gelu),
    quickGelu: activate(quickGelu),
    scale: scale((x) => x),
    scaleSilu: scale(silu),
    copyRows(source, sourceStride, target, targetStride, rows, length) {
      for (let row = 0; row < rows; row++) {
        const from = (source + row * sourceStride) / 4;
        numbers.copyWithin((target + row * targetStride) / 4, from, from + length / 4);
      }
    },
    softmax(start, rows, columns) {
      for (let row = 0; row < rows; row++) {
        const scores = numbers.subarray(start / 4 + row * columns, start / 4 + (row + 1) * columns);
        const largest = scores.reduce((a, b) => Math.max(a, b));
        for (let j = 0; j < columns; j++) scores[j] = Math.exp(scores[j] - largest); // cannot overflow
        const sum = scores.reduce((a, b) => a + b);
        for (let j = 0; j < columns; j++) scores[j] /= sum;
      }
    },
  };
}

// --- choosing ------------------------------------------------------------------------------------------------------

const kernelModule = (fused) => assemble([matmulFunction(fused), ...elementwiseFunctions()]);

// The fastest way to compute that this browser offers: "fused", "simd" or "javascript".
function bestMethod() {
  if (typeof WebAssembly === "undefined") return "javascript";
  if (WebAssembly.validate(kernelModule(true))) return "fused";
  return WebAssembly.validate(kernelModule(false)) ? "simd" : "javascript";
}

// Memory of `bytes`, all zero, and the functions on it: {numbers, kernels}. Addresses are in bytes.
function createKernels(bytes, method = bestMethod()) {
  if (method === "javascript") {
    const numbers = new Float32Array(Math.ceil(bytes / 4));
    return { numbers, kernels: { matmul: matmulInJavaScript(numbers), ...elementwiseInJavaScript(numbers) } };
  }
  const page = 65536;
  const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / page) }); // to grow it would detach `numbers`
  const module = new WebAssembly.Module(kernelModule(method === "fused"));
  const { exports } = new WebAssembly.Instance(module, { page: { memory } });
  return { numbers: new Float32Array(memory.buffer), kernels: exports };
}
