// How attention lays its matrices out for `matmul`, and the softmax between its two products.

// `count` rows of a range of channels, scaled, as matmul's A.
function copyRows({ map, from }, firstRow, count, offset, D, target, depth, scale) {
  for (let i = 0; i < count; i++) {
    const start = (firstRow + i) * map.channels + from + offset;
    for (let d = 0; d < D; d++) target[i * depth + d] = map.data[start + d] * scale;
  }
}

// The same rows as matmul's B, one column each: keys, of which the product needs the transpose.
function packTransposed({ map, from }, firstRow, count, offset, D, target, columns, depth) {
  for (let j = 0; j < count; j++) {
    const start = (firstRow + j) * map.channels + from + offset;
    const first = j - (j % PANEL);
    const width = Math.min(PANEL, columns - first);
    for (let d = 0; d < D; d++) target[first * depth + d * width + (j - first)] = map.data[start + d];
  }
}

// The same rows as matmul's B, one row each: values.
function packRows({ map, from }, firstRow, count, offset, D, target, columns, depth) {
  for (let j = 0; j < count; j++) {
    const start = (firstRow + j) * map.channels + from + offset;
    for (let d = 0; d < D; d++) {
      const first = d - (d % PANEL);
      const width = Math.min(PANEL, columns - first);
      target[first * depth + j * width + (d - first)] = map.data[start + d];
    }
  }
}

// Rows of scores to weights that sum to 1, in place; the padding, and with `causal` the later keys, get 0.
function softmax(scores, rows, columns, stride, causal) {
  for (let i = 0; i < rows; i++) {
    const start = i * stride;
    const end = start + (causal ? i + 1 : columns);
    let largest = -Infinity;
    for (let j = start; j < end; j++) if (scores[j] > largest) largest = scores[j];
    let total = 0;
    for (let j = start; j < end; j++) {
      scores[j] = Math.exp(scores[j] - largest); // subtracting the largest changes nothing and cannot overflow
      total += scores[j];
    }
    for (let j = start; j < end; j++) scores[j] /= total;
    scores.fill(0, end, start + stride);
  }
}
