// The user interface of "Try it": reads the controls, asks the Worker, and shows every step.

const element = (id) => document.getElementById(`live-${id}`);
const state = { worker: null, loaded: new Set(), nextId: 1, id: 0, frames: [], request: null, pendingLoad: null };
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches; // show the result, and not each step as it comes

// Mistakes to try, of faults.js: what the reader chooses, what to look for, and which models have it.
const MISTAKES = {
  swapped: ["Guidance: the two captions swapped", "guidance leads away from your caption. Compare scales 1, 2 and 4."],
  dropout: ["Training: classes never dropped", "at scale 1 nothing; beyond, guidance burns colours instead of shaping the animal."],
  time: ["Time: 0 to 1 where the network expects 0 to 1000", "the network takes noise for a nearly clean image."],
  noise: ["Noise: uniform instead of normal", "its mean is 0.5, and colours of the whole image shift."],
  unclipped: ["Clipping: estimates may leave [-1, 1]", "glaring colours, once the guidance scale is raised to 6."],
  scaling: ["Latents: scaling not undone before decoding", "the right shapes in washed-out colours."],
  range: ["Range: [-1, 1] shown as [0, 1]", "whatever is darker than middle grey becomes black."],
};
// Only pixels are clipped, only latents are scaled, and only a network of classes has a vector for "any class" alone.
const isPossible = (fault, { parts, caption_length }) =>
  fault !== (parts.autoencoder ? "unclipped" : "scaling") && !(fault === "dropout" && caption_length);

// --- the controls --------------------------------------------------------------------------------------------------

const currentModel = () => MANIFEST.models[element("model").value];

function fillControls() {
  for (const [name, { title }] of Object.entries(MANIFEST.models)) element("model").append(new Option(title, name));
  for (const [group, phrases] of Object.entries(MANIFEST.suggestions)) addWords(group, phrases);
  element("model").addEventListener("change", chooseModel);
  element("fault").addEventListener("change", showSymptom);
  for (const name of ["prompt", "negative"]) {
    element(name).addEventListener("input", checkCaptions);
    element(name).addEventListener("keydown", (event) => {
      if (event.key === "Enter") generate();
    });
  }
  for (const name of ["steps", "scale"]) element(name).addEventListener("input", showNumbers);
  element("scrub").addEventListener("input", () => showFrame(Number(element("scrub").value) - 1));
  element("generate").addEventListener("click", () => (state.id ? cancel() : generate()));
  element("next").addEventListener("click", nextSeed);
  chooseModel();
}

function addWords(group, phrases) {
  const row = document.createElement("div");
  row.className = "live-group";
  const label = document.createElement("span");
  label.textContent = group;
  row.append(label);
  for (const phrase of phrases) row.append(button(phrase, () => addToCaption(phrase)));
  element("words").append(row);
}

function button(text, onClick) {
  const result = document.createElement("button");
  result.type = "button";
  result.textContent = text;
  result.addEventListener("click", onClick);
  return result;
}

function addToCaption(phrase) {
  element("prompt").value = `${element("prompt").value.trim()} ${phrase}`.trim();
  checkCaptions();
}

// Models differ in what they are conditioned on: a caption, or a class.
function chooseModel() {
  const { caption_length, class_names = [], guidance_scale, steps } = currentModel();
  for (const field of document.querySelectorAll(".live [data-for]")) {
    field.hidden = field.dataset.for === "caption" ? !caption_length : Boolean(caption_length);
  }
  const options = [...class_names.map((name, i) => new Option(name, i)), new Option("any", -1)];
  element("label").replaceChildren(...options);
  element("scale").value = guidance_scale;
  element("steps").value = steps;
  const faults = Object.keys(MISTAKES).filter((fault) => isPossible(fault, currentModel()));
  element("fault").replaceChildren(
    new Option("nothing is broken", ""),
    ...faults.map((fault) => new Option(MISTAKES[fault][0], fault)),
  );
  showSymptom();
  showNumbers();
  checkCaptions();
}

function showSymptom() {
  const fault = element("fault").value;
  element("symptom").textContent = fault ? `What to look for: ${MISTAKES[fault][1]}` : "";
}

function showNumbers() {
  for (const name of ["steps", "scale"]) element(`${name}-value`).textContent = element(name).value;
}

// --- the caption ---------------------------------------------------------------------------------------------------

// Names what is wrong with the captions; whether they can be generated.
function checkCaptions() {
  const { caption_length, pipeline } = currentModel();
  element("problem").replaceChildren();
  if (!caption_length) return true;
  for (const name of ["prompt", "negative"]) {
    const { unknown, excess } = checkCaption(element(name).value, MANIFEST.vocabulary, caption_length);
    if (unknown.length) return showUnknown(element(name), unknown[0], pipeline === "sd1");
    if (excess) {
      element("problem").textContent = `The model reads ${caption_length} words; this caption has ${excess} more.`;
      return false;
    }
  }
  return true;
}

function showUnknown(input, { word, suggestion }, isAllowed) {
  const count = MANIFEST.vocabulary.length - 1;
  const consequence = isAllowed
    ? `“${word}” is not among the ${count} words of its training captions; the tokenizer splits it into pieces.`
    : `“${word}” is not among the ${count} words that the model was trained with.`;
  element("problem").append(suggestion ? `${consequence} Did you mean` : consequence);
  if (suggestion) {
    const replace = () => {
      const wholeWord = new RegExp(`(?<![\\p{L}\\p{N}])${escapeRegExp(word)}(?![\\p{L}\\p{N}])`, "giu");
      input.value = input.value.replace(wholeWord, suggestion);
      checkCaptions();
      input.focus();
    };
    element("problem").append(button(suggestion, replace), " ?");
  }
  return isAllowed;
}

const escapeRegExp = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

// --- generating ----------------------------------------------------------------------------------------------------

function readRequest() {
  const usesCaption = Boolean(currentModel().caption_length);
  return {
    prompt: usesCaption ? element("prompt").value : "",
    negativePrompt: usesCaption ? element("negative").value : "",
    label: usesCaption ? -1 : Number(element("label").value),
    steps: Number(element("steps").value),
    scale: Number(element("scale").value),
    sampler: element("sampler").value,
    fault: element("fault").value,
    seed: Math.min(Math.max(Math.floor(Number(element("seed").value)) || 0, 0), 4294967295),
  };
}

async function generate() {
  if (!checkCaptions()) {
    element("prompt").focus();
    return;
  }
  const model = element("model").value;
  state.id = state.nextId++;
  const { id } = state;
  state.request = readRequest();
  element("seed").value = state.request.seed;
  element("generate").textContent = "Stop";
  try {
    await loadModel(model);
    if (state.id !== id) return; // stopped while the weights were loading
    state.frames = [];
    element("strip").replaceChildren();
    element("attention").hidden = true;
    say(`Generating: ${state.request.steps} steps.`);
    state.worker.postMessage({ type: "generate", id, model, request: state.request });
  } catch (error) {
    fail(error.message);
  }
}

function cancel() {
  state.id = 0;
  state.worker?.postMessage({ type: "cancel" });
  element("generate").textContent = "Generate";
  element("progress").hidden = true;
  say("Stopped.");
}

function nextSeed() {
  element("seed").value = (Number(element("seed").value) + 1) % 4294967296;
  if (!state.id) generate();
}

// Loads a model's weights once, with a progress bar, and hands them to the Worker.
async function loadModel(model) {
  if (state.loaded.has(model)) return;
  const { parts, pipeline } = MANIFEST.models[model];
  const total = Object.values(parts).reduce((sum, name) => sum + MANIFEST.sizes[name], 0);
  let received = 0;
  state.worker ??= connectWorker(); // first, so that nothing is loaded in vain
  element("progress").hidden = false;
  element("progress").value = 0;
  say(`Loading the weights: ${(total / 1e6).toFixed(1)} MB, once.`);
  const files = {};
  for (const [part, name] of Object.entries(parts)) {
    const start = received;
    files[part] = await loadWeights(name, (bytes) => {
      received += bytes;
      element("progress").value = received / total;
    });
    received = start + MANIFEST.sizes[name];
    element("progress").value = received / total;
  }
  await new Promise((resolve, reject) => {
    state.pendingLoad = { resolve, reject };
    const message = { type: "load", model, pipeline, vocabulary: MANIFEST.vocabulary, files };
    state.worker.postMessage(message, Object.values(files));
  });
  state.loaded.add(model);
  element("progress").hidden = true;
}

function connectWorker() {
  const explain = (reason) => `the model cannot run here, because this browser starts no Web Worker (${reason}).`;
  let worker;
  try {
    worker = startWorker();
  } catch (error) {
    throw new Error(explain(error.message));
  }
  worker.onmessage = ({ data }) => receive(data);
  worker.onerror = (event) => fail(event.message || explain("it was blocked"));
  return worker;
}

// --- what the Worker sends -----------------------------------------------------------------------------------------

function receive(message) {
  if (message.type === "loaded") {
    document.getElementById("live").dataset.method = message.method;
    state.pendingLoad.resolve();
    return;
  }
  if (message.type === "error") fail(message.message);
  else if (message.type === "estimate") sharpenFrame(message);
  else if (message.type === "attention") offerAttention(message);
  else if (message.id !== state.id) return; // of a request that was stopped
  else if (message.type === "step") addFrame(message);
  else if (message.type === "image") finish(message);
}

// A frame is the state before a step, and the estimate that the network makes from it.
function addFrame({ id, t, state: x, estimate }, isImage = false) {
  const canvas = document.createElement("canvas");
  const index = state.frames.length;
  canvas.addEventListener("click", () => showFrame(index));
  paint(canvas, estimate);
  element("strip").append(canvas);
  state.frames.push({ id, t, x, estimate, canvas, isImage });
  element("scrub").max = index + 1;
  element("scrub").closest("p").hidden = false;
  if (!calm || isImage) showFrame(index);
}

function sharpenFrame({ id, step, estimate }) {
  const frame = state.frames[step - 1];
  if (!frame || frame.id !== id) return;
  frame.estimate = estimate;
  paint(frame.canvas, estimate);
  if (Number(element("scrub").value) === step) showFrame(step - 1);
}

// The last frame: no estimate any more, but the image itself.
function finish({ id, t, state: x, image, seconds }) {
  addFrame({ id, t, state: x, estimate: image }, true);
  state.id = 0;
  element("generate").textContent = "Generate";
  const isSlow = document.getElementById("live").dataset.method === "javascript";
  const reason = isSlow ? " This browser has no WebAssembly SIMD, which would be five times as fast." : "";
  say(`Done: ${state.request.steps} steps in ${seconds.toFixed(1)} seconds, on this computer.${reason}`);
  document.getElementById("live").dispatchEvent(new CustomEvent("generated", { detail: { image, seconds } }));
}

function showFrame(index) {
  const frame = state.frames[index];
  if (!frame) return;
  const { steps, prompt } = state.request;
  for (const toggle of element("attention").querySelectorAll("button")) toggle.setAttribute("aria-pressed", "false");
  const time = `t = ${frame.t.toFixed(2)}`;
  const subject = prompt ? `“${prompt}”` : "the class";
  paint(element("state"), frame.x);
  paint(element("estimate"), frame.estimate);
  element("state").setAttribute("aria-label", `The state at ${time}: ${describeNoise(frame.t)}`);
  const what = frame.isImage ? "The generated image" : `What the network estimates at ${time} that the image is`;
  element("estimate").setAttribute("aria-label", `${what}, for ${subject}`);
  element("scrub").value = index + 1;
  const progress = frame.isImage ? `${steps} of ${steps} done` : `${index + 1} of ${steps}`;
  element("scrub-value").textContent = `${progress}, ${time}`;
  state.frames.forEach((other, i) => other.canvas.classList.toggle("live-current", i === index));
}

// A button for every token: pressed, it lights up the part of the image that attends to the token.
function offerAttention({ id, tokens, maps, size }) {
  const image = state.frames[state.frames.length - 1];
  if (!image?.isImage || image.id !== id) return;
  const row = element("attention");
  const label = document.createElement("span");
  label.textContent = "attention to";
  row.replaceChildren(label);
  row.hidden = false;
  tokens.forEach((token, i) => {
    const map = maps.subarray(i * size * size, (i + 1) * size * size);
    const toggle = button(token, () => {
      const isOn = toggle.getAttribute("aria-pressed") === "true";
      showFrame(state.frames.length - 1);
      if (isOn) return;
      toggle.setAttribute("aria-pressed", "true");
      paint(element("estimate"), highlight(image.estimate, map, size));
      const text = `The generated image, bright where cross-attention to “${token}” is strong`;
      element("estimate").setAttribute("aria-label", text);
    });
    toggle.setAttribute("aria-pressed", "false");
    row.append(toggle);
  });
}

function describeNoise(t) {
  if (t > 0.95) return "nearly pure noise";
  return t < 0.05 ? "nearly free of noise" : `about ${Math.round(100 * t)} % of the way to pure noise`;
}

function say(text) {
  element("status").textContent = text;
}

function fail(message) {
  state.pendingLoad?.reject(new Error(message)); // whoever waits for the weights stops waiting
  state.pendingLoad = null;
  state.id = 0;
  element("generate").textContent = "Generate";
  element("progress").hidden = true;
  say(`That did not work: ${message}`);
}

// --- start ---------------------------------------------------------------------------------------------------------

// A live figure in another page: its button has been pressed. It gets the controls that it names, and generates at once.
function openFigure(figure) {
  const { model, show } = figure.dataset;
  figure.innerHTML = CONTROLS;
  const unused = [...figure.querySelectorAll("[data-control]")].filter(
    ({ dataset }) => !show.split(" ").includes(dataset.control),
  );
  for (const control of unused) control.classList.add("live-unused");
  document.getElementById("live").hidden = false;
  fillControls();
  element("model").value = model;
  chooseModel();
  element("generate").focus();
  generate();
}

const figure = document.querySelector(".live-figure");
if (figure) {
  openFigure(figure);
} else if (typeof Worker === "undefined" || typeof Blob === "undefined") {
  element("missing").textContent = "The model cannot run here: this browser has no Web Workers.";
} else {
  element("missing").remove();
  document.getElementById("live").hidden = false;
  fillControls();
}
