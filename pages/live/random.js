// Random numbers: PyTorch's, so that a seed gives the same image here as in the notebooks.
//
// torch.randn(n, generator=torch.Generator().manual_seed(seed)) on a CPU is three things: a Mersenne twister that makes
// random bits, 24 of which become a uniform number, and Box and Muller's formula that makes normal numbers of those.

// The Mersenne twister MT19937 (Matsumoto & Nishimura 1998). Its state is 624 words of 32 bits; every call to the
// function returned gives the next word. `>>> 0` makes JavaScript read a word as unsigned.
function mersenneTwister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed >>> 0;
  for (let i = 1; i < 624; i++) {
    const previous = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = Math.imul(1812433253, previous) + i;
  }
  let position = 624;

  // All 624 words are renewed at once: each from itself, its neighbour, and the word 397 places further on.
  function renew() {
    for (let i = 0; i < 624; i++) {
      const word = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (word >>> 1) ^ (word & 1 ? 0x9908b0df : 0);
    }
    position = 0;
  }

  return function next() {
    if (position === 624) renew();
    let word = state[position++];
    word ^= word >>> 11; // tempering: spreads the state's bits over the word
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    word ^= word >>> 18;
    return word >>> 0;
  };
}

// Standard normal numbers, a Float32Array of `count`, in torch.randn's order.
//
// Box and Muller (1958): for uniform u and v, sqrt(-2 log u) cos(2 pi v) and sqrt(-2 log u) sin(2 pi v) are two
// independent normal numbers. PyTorch takes blocks of 16: the first eight numbers are the u, the last eight the v.
function standardNormal(seed, count) {
  if (count % 16) { // PyTorch's blocks
    throw new RangeError(`the count must be a multiple of 16: got ${count}`);
  }
  const next = mersenneTwister(seed);
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    values[i] = (next() & 0xffffff) / 0x1000000; // 24 bits: what float32 can hold
  }
  for (let block = 0; block < count; block += 16) {
    for (let i = block; i < block + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - values[i])); // 1 - u is never 0
      const angle = 2 * Math.PI * values[i + 8];
      values[i] = radius * Math.cos(angle);
      values[i + 8] = radius * Math.sin(angle);
    }
  }
  return values;
}
