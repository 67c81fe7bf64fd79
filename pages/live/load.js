// Loading weights, when they are needed and not before: over http with a progress bar, from a file as a script.

const BASE = document.currentScript.src.replace(/[^/]*$/, ""); // the folder of this script

// The bytes of a file of weights. onProgress(bytes) is called as they arrive.
async function loadWeights(name, onProgress) {
  const url = `${BASE}weights/${name}.js`;
  return location.protocol === "file:" ? loadAsScript(name, url) : fetchWeights(url, MANIFEST.sizes[name], onProgress);
}

async function fetchWeights(url, size, onProgress) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`could not load ${url} (status ${response.status})`);
  const reader = response.body.getReader();
  const script = new Uint8Array(size);
  let received = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (received + value.length > size) throw new Error(`${url} is not the file that belongs to this page`);
    script.set(value, received);
    received += value.length;
    onProgress(value.length);
  }
  if (received < size) throw new Error(`${url} ended after ${received} of ${size} bytes`);
  return unescapeBytes(script);
}

// The content of the string in a script of weights, byte by byte: see `as_script` in package.py. It becomes shorter, so
// it is written over the script itself: what follows its end in the buffer is nothing that the content refers to.
function unescapeBytes(script) {
  const quote = 0x22;
  const backslash = 0x5c;
  const lineEnds = { 0x6e: 0x0a, 0x72: 0x0d }; // \n and \r
  let length = 0;
  for (let i = script.indexOf(quote) + 1; script[i] !== quote; i++) {
    let byte = script[i];
    if (byte === backslash) {
      i += 1;
      byte = lineEnds[script[i]] ?? script[i];
    }
    script[length++] = byte;
  }
  return script.buffer;
}

// A page from a file:// may not fetch, but it may run scripts. With this encoding every byte becomes one character,
// whose lower eight bits are the byte.
function loadAsScript(name, url) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.charset = "x-user-defined";
    script.src = url;
    script.onload = () => {
      const text = self.liveWeights[name];
      delete self.liveWeights[name];
      script.remove();
      const bytes = new Uint8Array(text.length);
      for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
      resolve(bytes.buffer);
    };
    script.onerror = () => reject(new Error(`could not load ${url}`));
    document.head.append(script);
  });
}

// A Worker that runs the engine. From a Blob, because a page from a file:// may not start one from another file.
function startWorker() {
  const url = URL.createObjectURL(new Blob([WORKER_SOURCE], { type: "text/javascript" }));
  const worker = new Worker(url);
  URL.revokeObjectURL(url);
  return worker;
}
