// A small assembler: WebAssembly, written byte by byte.
//
// JavaScript computes with one number at a time; a processor's SIMD instructions compute with four. Only WebAssembly
// reaches those instructions, so matmul.js and elementwise.js write their functions in it. They are short enough that no
// compiler is needed: a function is a list of bytes, and every helper here returns such a list.

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

// --- integers and control ------------------------------------------------------------------------------------------

const add = (a, b) => [...a, ...b, 0x6a]; // the operands first, then the instruction: a stack machine
const subtract = (a, b) => [...a, ...b, 0x6b];
const multiply = (a, b) => [...a, ...b, 0x6c];
const lessThan = (a, b) => [...a, ...b, 0x49];
const loopWhile = (condition, body) => [0x03, 0x40, ...body, ...condition, 0x0d, 0, 0x0b]; // loop body br_if 0 end
const when = (condition, body) => [...condition, 0x04, 0x40, ...body, 0x0b];

// --- vectors: four numbers -----------------------------------------------------------------------------------------

const vector = (opcode) => [0xfd, ...unsigned(opcode)]; // SIMD instructions have this prefix
const load = (address, offset) => [...address, ...vector(0x00), 2, ...unsigned(offset)]; // four numbers
const splat = (address, offset) => [...address, ...vector(0x09), 2, ...unsigned(offset)]; // one number, four times
const store = (address, offset, value) => [...address, ...value, ...vector(0x0b), 2, ...unsigned(offset)];
const four = (value) => [...vector(0x0c), ...new Uint8Array(new Float32Array(4).fill(value).buffer)]; // a constant
const binary = (opcode) => (a, b) => [...a, ...b, ...vector(opcode)];
const plus = binary(0xe4);
const minus = binary(0xe5);
const times = binary(0xe6);
const over = binary(0xe7);
const smaller = binary(0xe8);
const larger = binary(0xe9);
const absolute = (x) => [...x, ...vector(0xe0)];
const nearest = (x) => [...x, ...vector(0x6a)]; // rounded to whole numbers
const multiplyAdd = (a, b, sum) => [...sum, ...a, ...b, ...vector(0xe6), ...vector(0xe4)];
const fusedMultiplyAdd = (a, b, sum) => [...a, ...b, ...sum, ...vector(0x105)]; // one instruction where there is one
// 2^n for whole n: the exponent of a floating-point number is n + 127, in bits 23 to 30.
const powerOfTwo = (n) => [...plus(n, four(127)), ...vector(0xf8), ...constant(23), ...vector(0xab)];
// The four numbers in another order.
const shuffle = (x, order) => [
  ...x, ...x, ...vector(0x0d), ...order.flatMap((lane) => [0, 1, 2, 3].map((byte) => 4 * lane + byte)),
];
// The same operation over all four numbers; the result is in all four. `x` is evaluated four times: a variable.
const acrossLanes = (operation, x, name, { get, set }) => [
  ...set(name, operation(x, shuffle(x, [2, 3, 0, 1]))),
  ...set(name, operation(get(name), shuffle(get(name), [1, 0, 3, 2]))),
];

// --- functions and modules -----------------------------------------------------------------------------------------

const I32 = 0x7f;
const V128 = 0x7b;
const section = (id, bytes) => [id, ...unsigned(bytes.length), ...bytes];
const text = (string) => [string.length, ...new TextEncoder().encode(string)];

// A function without a result. Its parameters are integers; its further variables are integers and vectors. `code` is
// called with get(name), set(name, value) and increase(name, value), and returns the instructions.
function defineFunction(name, { parameters, integers = [], vectors = [] }, code) {
  const names = [...parameters, ...integers, ...vectors];
  const index = (variable) => {
    if (!names.includes(variable)) throw new RangeError(`${name} has no variable ${variable}`);
    return unsigned(names.indexOf(variable));
  };
  const get = (variable) => [0x20, ...index(variable)];
  const set = (variable, value) => [...value, 0x21, ...index(variable)];
  const increase = (variable, value) => set(variable, add(get(variable), value));
  const locals = [2, ...unsigned(integers.length), I32, ...unsigned(vectors.length), V128]; // zero at first
  return { name, parameters: parameters.length, body: [...locals, ...code({ get, set, increase }), 0x0b] };
}

// A module's bytes: its functions, on the memory of the page.
function assemble(functions) {
  const list = (items) => [...unsigned(items.length), ...items.flat()];
  return new Uint8Array([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0], // "\0asm", version 1
    ...section(1, list(functions.map(({ parameters }) => [0x60, ...list(Array(parameters).fill(I32)), 0]))), // types
    ...section(2, [1, ...text("page"), ...text("memory"), 0x02, 0, 1]), // imports the memory
    ...section(3, list(functions.map((_, i) => unsigned(i)))), // the type of every function
    ...section(7, list(functions.map(({ name }, i) => [...text(name), 0, ...unsigned(i)]))), // exports them
    ...section(10, list(functions.map(({ body }) => [...unsigned(body.length), ...body]))),
  ]);
}
