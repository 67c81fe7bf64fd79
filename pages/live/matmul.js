// The one operation that has to be fast: a product of matrices.
//
// Convolutions, linear layers and attention are all products of matrices, and nine tenths of the time goes there.
// JavaScript multiplies one pair of numbers at a time; a processor's SIMD instructions multiply four. WebAssembly
// reaches those instructions, so this file writes a WebAssembly function (assembler.js). Where a browser has no WebAssembly
// SIMD, `matmulInJavaScript` does the same.
//
//   C[row, column] = bias[column] + sum over k of A[row, k] B[k, column]
//
// Four rows and eight columns are computed at a time, so that 32 sums stay in registers while k runs. B is stored in
// *panels* of eight columns (and a last one of four), so that what the loop needs next is next in memory. The numbers
// of rows and columns and the depth (the length of k) are multiples of 4.

const ROWS = 4;
const PANEL = 8;

// All rows of one panel of `width` columns. p0 to p3 point into four rows of A, then of C.
function panelCode(width, fused, { get, set, increase }) {
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

// The whole product. `fused` uses relaxed SIMD's multiply-add, which newer browsers have.
function matmulFunction(fused) {
  const variables = {
    parameters: ["a", "b", "bias", "c", "rows", "columns", "depth"],
    integers: [
      "left", "panelC", "row", "rowA", "rowC", "panelB", "end", "bytesA", "bytesC", "p0", "p1", "p2", "p3",
    ],
    vectors: ["value", "b0", "b1", "c00", "c01", "c10", "c11", "c20", "c21", "c30", "c31"],
  };
  return defineFunction("matmul", variables, (access) => {
    const { get, set } = access;
    const atLeastAPanel = lessThan(constant(PANEL - 1), get("left"));
    return [
      ...set("bytesA", multiply(get("depth"), constant(4))),
      ...set("bytesC", multiply(get("columns"), constant(4))),
      ...set("left", get("columns")),
      ...set("panelC", get("c")),
      ...when(atLeastAPanel, loopWhile(atLeastAPanel, panelCode(PANEL, fused, access))),
      ...when(get("left"), panelCode(4, fused, access)),
    ];
  });
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
