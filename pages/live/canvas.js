// Showing what a network computes: an image (3, size, size) in [-1, 1] on a canvas.

function paint(canvas, values) {
  const size = Math.sqrt(values.length / 3);
  const image = new ImageData(size, size);
  const positions = size * size;
  for (let i = 0; i < positions; i++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = Math.min(1, Math.max(-1, values[channel * positions + i]));
      image.data[4 * i + channel] = Math.round((value + 1) * 127.5);
    }
    image.data[4 * i + 3] = 255;
  }
  canvas.width = size;
  canvas.height = size;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// An image (3, size, size) whose brightness follows a map (side, side): bright where the map is large.
function highlight(values, map, side) {
  const size = Math.sqrt(values.length / 3);
  const positions = size * size;
  const largest = Math.max(...map);
  return values.map((value, i) => {
    const row = Math.floor((i % positions) / size);
    const weight = interpolate(map, side, (i % size) / size, row / size) / largest;
    return (value + 1) * (0.15 + 0.85 * weight) - 1;
  });
}

// The map's value at (x, y) in [0, 1), bilinear between the centres of its squares.
function interpolate(map, side, x, y) {
  const clamp = (index) => Math.min(Math.max(index, 0), side - 1);
  const column = x * side - 0.5;
  const row = y * side - 0.5;
  const left = Math.floor(column);
  const top = Math.floor(row);
  const at = (r, c) => map[clamp(r) * side + clamp(c)];
  const mix = (a, b, share) => a + (b - a) * share;
  const upper = mix(at(top, left), at(top, left + 1), column - left);
  const lower = mix(at(top + 1, left), at(top + 1, left + 1), column - left);
  return mix(upper, lower, row - top);
}
