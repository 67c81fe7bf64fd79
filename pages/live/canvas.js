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
