// How attention lays its matrices out for `matmul`, and which keys it may not see.

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

// Scores of the padding, and with `causal` of the later keys, become so small that softmax makes them 0.
function mask(scores, rows, columns, stride, causal) {
  for (let i = 0; i < rows; i++) {
    scores.fill(-1e30, i * stride + (causal ? i + 1 : columns), (i + 1) * stride);
  }
}
