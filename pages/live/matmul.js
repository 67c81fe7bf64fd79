// The one operation that has to be fast: a product of matrices.
//
// Convolutions, linear layers and attention are all products of matrices, and nine tenths of the time goes there.
// JavaScript multiplies one pair of numbers at a time; a processor's SIMD instructions multiply four. WebAssembly
// reaches those instructions, so this file writes a WebAssembly module of one function, byte by byte: it is short
// enough that no compiler is needed. Where a browser has no WebAssembly SIMD, `matmulInJavaScript` does the same.
//
//   C[row, column] = bias[column] + sum over k of A[row, k] B[k, column]
//
// Four rows and eight columns are computed at a time, so that 32 sums stay in registers while k runs. B is stored in
// *panels* of eight columns (and a last one of four), so that what the loop needs next is next in memory. The numbers
// of rows and columns and the depth (the length of k) are multiples of 4.

const ROWS = 4;
const PANEL = 8;

// --- a small assembler ---------------------------------------------------------------------------------------------

// An integer in LEB128, WebAssembly's variable-length code: seven bits a byte, the highest bit means "more follows".
function unsigned(value) {
  return value < 128 ? [value] : [(value & 127) | 128, ...unsigned(value >>> 7)];
}

// The same for signed constants, where the last byte's bit 6 is the sign; ours are not negative.
function constant(value) {
  const bytes = [];
  for (; value > 63; value >>>= 7) bytes.push((value & 127) | 128);
  return [0x41, ...bytes, value]; // 0x41 is i32.const
}

const vector = (opcode) => [0xfd, ...unsigned(opcode)]; // SIMD instructions have this prefix
const add = (a, b) => [...a, ...b, 0x6a]; // the operands first, then the instruction: a stack machine
const subtract = (a, b) => [...a, ...b, 0x6b];
const multiply = (a, b) => [...a, ...b, 0x6c];
const lessThan = (a, b) => [...a, ...b, 0x49];
const load = (address, offset) => [...address, ...vector(0x00), 2, ...unsigned(offset)]; // four numbers
const splat = (address, offset) => [...address, ...vector(0x09), 2, ...unsigned(offset)]; // one number, four times
const store = (address, offset, value) => [...address, ...value, ...vector(0x0b), 2, ...unsigned(offset)];
const multiplyAdd = (a, b, sum) => [...sum, ...a, ...b, ...vector(0xe6), ...vector(0xe4)]; // f32x4.mul, f32x4.add
const fusedMultiplyAdd = (a, b, sum) => [...a, ...b, ...sum, ...vector(0x105)]; // one instruction where there is one
const loopWhile = (condition, body) => [0x03, 0x40, ...body, ...condition, 0x0d, 0, 0x0b]; // loop body br_if 0 end
const when = (condition, body) => [...condition, 0x04, 0x40, ...body, 0x0b];
const section = (id, bytes) => [id, ...unsigned(bytes.length), ...bytes];
const text = (string) => [string.length, ...new TextEncoder().encode(string)];

const I32 = 0x7f;
const V128 = 0x7b;
const PARAMETERS = ["a", "b", "bias", "c", "rows", "columns", "depth"];
const INTEGERS = ["left", "panelC", "row", "rowA", "rowC", "panelB", "end", "bytesA", "bytesC", "p0", "p1", "p2", "p3"];
const VECTORS = ["value", "b0", "b1", "c00", "c01", "c10", "c11", "c20", "c21", "c30", "c31"];
const NAMES = [...PARAMETERS, ...INTEGERS, ...VECTORS];
const get = (name) => [0x20, ...unsigned(NAMES.indexOf(name))];
const set = (name, value) => [...value, 0x21, ...unsigned(NAMES.indexOf(name))];
const increase = (name, value) => set(name, add(get(name), value));

// --- the function --------------------------------------------------------------------------------------------------

// All rows of one panel of `width` columns. p0 to p3 point into four rows of A, then of C.
function panelCode(width, fused) {
  const rows = [0, 1, 2, 3];
  const halves = width === 8 ? [0, 1] : [0]; // of the panel: four columns each
  const sums = rows.flatMap((row) => halves.map((half) => [row, half]));
  const accumulate = fused ? fusedMultiplyAdd : multiplyAdd;
  const fourSteps = [0, 1, 2, 3].flatMap((k) => [
    ...halves.flatMap((half) => set(`b${half}`, load(get("panelB"), 4 * (k * width + 4 * half)))),
    ...rows.flatMap((row) => [
      ...set("value", splat(get(`p${row}`), 4 * k)),
      ...halves.flatMap((half) => {
        const sum = `c${row}${half}`;
        return set(sum, accumulate(get("value"), get(`b${half}`), get(sum)));
      }),
    ]),
  ]);
  const fourRows = [
    ...rows.flatMap((row) => set(`p${row}`, add(get("rowA"), multiply(get("bytesA"), constant(row))))),
    ...sums.flatMap(([row, half]) => set(`c${row}${half}`, load(get("bias"), 16 * half))),
    ...set("panelB", get("b")),
    ...set("end", add(get("p0"), get("bytesA"))),
    ...loopWhile(lessThan(get("p0"), get("end")), [
      ...fourSteps,
      ...rows.flatMap((row) => increase(`p${row}`, constant(16))),
      ...increase("panelB", constant(16 * width)),
    ]),
    ...rows.flatMap((row) => set(`p${row}`, add(get("rowC"), multiply(get("bytesC"), constant(row))))),
    ...sums.flatMap(([row, half]) => store(get(`p${row}`), 16 * half, get(`c${row}${half}`))),
    ...increase("rowA", multiply(get("bytesA"), constant(ROWS))),
    ...increase("rowC", multiply(get("bytesC"), constant(ROWS))),
    ...increase("row", constant(ROWS)),
  ];
  return [
    ...set("row", constant(0)),
    ...set("rowA", get("a")),
    ...set("rowC", get("panelC")),
    ...loopWhile(lessThan(get("row"), get("rows")), fourRows),
    ...increase("b", multiply(get("bytesA"), constant(width))), // the next panel
    ...increase("bias", constant(4 * width)),
    ...increase("panelC", constant(4 * width)),
    ...set("left", subtract(get("left"), constant(width))),
  ];
}

// The module's bytes. `fused` uses relaxed SIMD's multiply-add, which newer browsers have.
function matmulModule(fused) {
  const atLeastAPanel = lessThan(constant(PANEL - 1), get("left"));
  const code = [
    ...set("bytesA", multiply(get("depth"), constant(4))),
    ...set("bytesC", multiply(get("columns"), constant(4))),
    ...set("left", get("columns")),
    ...set("panelC", get("c")),
    ...when(atLeastAPanel, loopWhile(atLeastAPanel, panelCode(PANEL, fused))),
    ...when(get("left"), panelCode(4, fused)),
    0x0b,
  ];
  const locals = [2, ...unsigned(INTEGERS.length), I32, ...unsigned(VECTORS.length), V128];
  const body = [...locals, ...code];
  const parameters = PARAMETERS.map(() => I32);
  return new Uint8Array([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0], // "\0asm", version 1
    ...section(1, [1, 0x60, ...unsigned(parameters.length), ...parameters, 0]), // one type: seven integers, no result
    ...section(2, [1, ...text("page"), ...text("memory"), 0x02, 0, 1]), // imports the memory
    ...section(3, [1, 0]), // one function of that type
    ...section(7, [1, ...text("matmul"), 0, 0]), // exports it
    ...section(10, [1, ...unsigned(body.length), ...body]),
  ]);
}

// The same product without WebAssembly, about five times slower. Addresses are in bytes, as WebAssembly's are.
function matmulInJavaScript(numbers) {
  return function matmul(a, b, bias, c, rows, columns, depth) {
    for (let first = 0; first < columns; first += PANEL) {
      const width = Math.min(PANEL, columns - first);
      const panel = b / 4 + first * depth;
      const sums = new Float64Array(width);
      for (let row = 0; row < rows; row++) {
        for (let j = 0; j < width; j++) sums[j] = numbers[bias / 4 + first + j];
        for (let k = 0; k < depth; k++) {
          const value = numbers[a / 4 + row * depth + k];
          for (let j = 0; j < width; j++) sums[j] += value * numbers[panel + k * width + j];
        }
        numbers.set(sums, c / 4 + row * columns + first);
      }
    }
  };
}

// The fastest way to multiply that this browser offers: "fused", "simd" or "javascript".
function bestMatmul() {
  if (typeof WebAssembly === "undefined") return "javascript";
  if (WebAssembly.validate(matmulModule(true))) return "fused";
  return WebAssembly.validate(matmulModule(false)) ? "simd" : "javascript";
}

// Memory of `bytes`, all zero, and the product on it: {numbers, matmul}.
function createMatmul(bytes, method = bestMatmul()) {
  if (method === "javascript") {
    const numbers = new Float32Array(Math.ceil(bytes / 4));
    return { numbers, matmul: matmulInJavaScript(numbers) };
  }
  const page = 65536;
  const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / page) }); // to grow it would detach `numbers`
  const module = new WebAssembly.Module(matmulModule(method === "fused"));
  const { matmul } = new WebAssembly.Instance(module, { page: { memory } }).exports;
  return { numbers: new Float32Array(memory.buffer), matmul };
}
