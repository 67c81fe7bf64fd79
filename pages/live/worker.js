// The Worker: runs the engine beside the page, so that the page stays responsive while a network computes.
//
// Messages to it:   {type: "load", model, pipeline, vocabulary, files: {part: ArrayBuffer}}
//                   {type: "generate", id, model, request}     {type: "cancel"}
// Messages from it: {type: "loaded", model}      {type: "step", id, step, t, state, estimate}
//                   {type: "image", id, t, state, image, seconds}
//                   {type: "attention", id, tokens, maps, size}
//                   {type: "estimate", id, step, estimate}    instead of that of an earlier step
//                   {type: "cancelled", id}                   {type: "error", id, message}

const loadedPipelines = new Map();
let currentId = 0; // of the request that is being worked on; another number cancels it

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "load") openModel(data);
    else if (data.type === "generate") await generate(data);
    else currentId = 0;
  } catch (error) {
    self.postMessage({ type: "error", id: data.id ?? 0, message: error.message });
  }
};

function openModel({ model, pipeline, vocabulary, files }) {
  const read = Object.fromEntries(Object.entries(files).map(([part, buffer]) => [part, readSafetensors(buffer)]));
  loadedPipelines.set(model, new PIPELINES[pipeline](read, { vocabulary }));
  self.postMessage({ type: "loaded", model, method: bestMethod() });
}

// A message "cancel" is read only when this function waits.
const readMessages = () => new Promise((resolve) => setTimeout(resolve));

async function generate({ id, model, request }) {
  currentId = id;
  const pipeline = withFault(loadedPipelines.get(model), request.fault);
  const start = performance.now();
  const recorder = pipeline.recordAttention?.(request.prompt);
  const { noise, denoise, times, path } = pipeline.prepare(request);
  let state = { t: times[0], x: noise };
  const estimates = [];
  for (const next of SAMPLERS[request.sampler](denoise, noise, times, path)) {
    estimates.push(next.x0);
    const estimate = pipeline.preview(next.x0);
    const shown = pipeline.stateToRGB(state.x);
    self.postMessage({ type: "step", id, step: estimates.length, t: state.t, state: shown, estimate });
    state = next;
    await readMessages();
    if (currentId !== id) {
      self.postMessage({ type: "cancelled", id });
      return;
    }
  }
  const image = pipeline.decode(state.x);
  const seconds = (performance.now() - start) / 1000;
  self.postMessage({ type: "image", id, t: state.t, state: pipeline.stateToRGB(state.x), image, seconds });
  if (recorder) {
    const tokens = recorder.tokens.map((token) => token.replace(WORD_END, ""));
    self.postMessage({ type: "attention", id, tokens, maps: recorder.maps(), size: recorder.size });
  }
  await sharpen(id, pipeline, estimates);
}

// The image is there. Where the estimates were coarse previews, replace them by what the decoder makes of them.
async function sharpen(id, pipeline, estimates) {
  if (!pipeline.rgbFactors) return;
  for (let i = estimates.length - 1; i >= 0; i--) {
    await readMessages();
    if (currentId !== id) return;
    self.postMessage({ type: "estimate", id, step: i + 1, estimate: pipeline.decode(estimates[i]) });
  }
}
