// Reading weights: the safetensors format, and half precision.
//
// A safetensors file is a length (8 bytes), a header of that length in JSON, and then the numbers of all tensors, one
// after another. The header says of every tensor what it is called, its shape, and where its bytes begin and end:
//
//   {"stem.weight": {"dtype": "F16", "shape": [48, 48, 3, 3], "data_offsets": [0, 41472]}, ..., "__metadata__": {...}}
//
// That is all of it: there is no code in such a file, so reading one from a stranger is safe.

// Read a file. Returns {tensors: {name: {shape, halves}}, metadata}; the numbers stay in half precision until a layer
// needs them, so that a network takes no more memory than its file before it is used.
function readSafetensors(buffer) {
  const headerLength = Number(new DataView(buffer).getBigUint64(0, true));
  const text = new TextDecoder().decode(new Uint8Array(buffer, 8, headerLength));
  const header = JSON.parse(text);
  const metadata = header.__metadata__ ?? {};
  delete header.__metadata__;
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (dtype !== "F16") {
      throw new Error(`${name} is ${dtype}: the course ships half precision (F16)`);
    }
    const [start, end] = data_offsets;
    const halves = new Uint16Array(buffer, 8 + headerLength + start, (end - start) / 2);
    tensors[name] = { shape, halves };
  }
  return { tensors, metadata };
}

// Half precision (IEEE 754 binary16) has 65,536 values, so the fastest conversion is a table of all of them.
// A half is one bit of sign, five of exponent e and ten of fraction f: (-1)^sign 2^(e - 15) (1 + f / 1024). Where e is
// 0 the leading 1 is missing (a subnormal number), which lets values fade to zero instead of stopping at 2^-14.
let halfTable = null;
function halfToFloat() {
  if (halfTable) return halfTable;
  halfTable = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = (bits & 1023) / 1024;
    halfTable[bits] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  }
  return halfTable;
}

// The numbers of a tensor in single precision, in which everything is computed.
function toFloat32(tensor) {
  const table = halfToFloat();
  const { halves } = tensor;
  const values = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) values[i] = table[halves[i]]; // Float32Array.from is ten times as slow
  return values;
}
