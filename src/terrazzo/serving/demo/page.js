// The demo page: sends a photo to the Open Inference Protocol's endpoint, gets the mask as an array of class indices, and
// paints it over the photo. Files to download come from /v1/segment.
"use strict";

const at = (id) => document.getElementById(id);
const state = { photo: null, name: "photo", mask: null, width: 0, height: 0, models: [], pressed: null, key: "", turn: 0 };

function headers(more) {
  return state.key ? { ...more, Authorization: `Bearer ${state.key}` } : more;
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers || {}) });
  if (answer.ok) return answer;
  if (answer.status === 401 && (await askForKey())) return ask(path, options);
  let said = `the server answered ${answer.status}`;
  try {
    const { error } = await answer.json();
    said = typeof error === "string" ? error : error.message;
  } catch { /* the body is not ours: the status says enough */ }
  const wait = answer.headers.get("Retry-After");
  throw new Error(wait ? `${said}; try again in ${wait} s` : said);
}

let asking = null;

function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = at("key-dialog");
    at("key-wrong").hidden = state.key === "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      state.key = at("key").value;
      asking = null;
      resolve(dialog.returnValue === "ok" && state.key !== "");
    }, { once: true });
    dialog.showModal();
    at("key").select();
  });
  return asking;
}

function tell(text) { at("status").textContent = text; }

function fail(error) {
  tell("");
  at("error").textContent = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  at("error").hidden = false;
}

// Models and examples

async function begin() {
  at("here").textContent = location.origin;
  try {
    await listModels();
    const examples = await (await ask("/demo/examples")).json();
    for (const { name } of examples) at("examples").append(exampleButton(name));
    at("credits").textContent = examples.map(({ name, credit }) => `Example photo of ${name}: ${credit}`).join(" ");
  } catch (error) { fail(error); }
}

async function listModels() {
  state.models = await (await ask("/v1/models")).json();
  if (state.models.some((model) => !model.ready)) {
    tell("The model is loading.");
    setTimeout(() => listModels().catch(fail), 1000);
  } else {
    tell("");
  }
  const chosen = at("model").value;
  at("model").replaceChildren(...state.models.map((model) => new Option(model.name, model.name)));
  if (chosen) at("model").value = chosen;
  showLicence();
}

function showLicence() {
  const model = chosenModel();
  at("licence").textContent = model && model.licence ? `Licence of the model's weights: ${model.licence}` : "";
}

const chosenModel = () => state.models.find((model) => model.name === at("model").value);

function exampleButton(name) {
  const button = document.createElement("button");
  const image = new Image();
  button.type = "button";
  image.src = `/demo/examples/${encodeURIComponent(name)}`;
  image.alt = `Example photo for ${name}`;
  button.append(image);
  button.addEventListener("click", async () => {
    try {
      const blob = await (await ask(image.src)).blob();
      if (state.models.some((model) => model.name === name)) at("model").value = name;
      await take(blob, name);
    } catch (error) { fail(error); }
  });
  return button;
}

// A photo comes in

async function take(blob, name) {
  state.photo = blob;
  state.name = (name || "photo").replace(/\.[^.]*$/, "");
  await segment();
}

async function segment() {
  if (!state.photo) return;
  const turn = ++state.turn;
  at("error").hidden = true;
  tell("Segmenting …");
  try {
    const begun = performance.now();
    const { mask, width, height } = await infer(state.photo, at("model").value);
    if (turn !== state.turn) return;
    Object.assign(state, { mask, width, height, pressed: null });
    const took = Math.round(performance.now() - begun);
    await showPhoto();
    showClasses();
    addTime(took);
    at("drop").hidden = true;
    at("picture").hidden = at("result").hidden = false;
    paint();
    const [first] = areas();
    tell(`${width} × ${height} pixels, ${took} ms. Largest class: ${first.name}, ${percent(first.share)}.`);
  } catch (error) {
    if (turn === state.turn) fail(error);
  }
}

async function infer(blob, model) {
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, blob.size, true);
  const head = new TextEncoder().encode(JSON.stringify({
    inputs: [{ name: "image", datatype: "BYTES", shape: [1], parameters: { binary_data_size: blob.size + 4 } }],
    outputs: [{ name: "mask", parameters: { binary_data: true } }],
  }));
  const answer = await ask(`/v2/models/${encodeURIComponent(model)}/infer`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(head.length) },
    body: new Blob([head, length.buffer, blob]),
  });
  const split = Number(answer.headers.get("Inference-Header-Content-Length"));
  const bytes = await answer.arrayBuffer();
  const { outputs: [{ datatype, shape: [, height, width] }] } = JSON.parse(new TextDecoder().decode(bytes.slice(0, split)));
  const data = bytes.slice(split);
  return { mask: datatype === "UINT16" ? new Uint16Array(data) : new Uint8Array(data), width, height };
}

async function showPhoto() {
  const canvas = at("photo");
  canvas.width = state.width;
  canvas.height = state.height;
  const pen = canvas.getContext("2d");
  try {
    const bitmap = await createImageBitmap(state.photo);
    pen.drawImage(bitmap, 0, 0, state.width, state.height);
    bitmap.close();
  } catch { // a format that browsers do not show, such as TIFF
    pen.fillStyle = "#888";
    pen.fillRect(0, 0, state.width, state.height);
  }
}

// The mask over it

function areas() {
  const counts = new Map();
  for (const index of state.mask) counts.set(index, (counts.get(index) || 0) + 1);
  const classes = chosenModel().classes;
  return [...counts].filter(([index]) => index < classes.length)
    .map(([index, pixels]) => ({ ...classes[index], share: pixels / state.mask.length }))
    .sort((one, other) => other.share - one.share);
}

function paint(lit = state.pressed) {
  const canvas = at("mask");
  canvas.width = state.width;
  canvas.height = state.height;
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(state.width, state.height);
  const pixels = new Uint32Array(image.data.buffer);
  const colors = new Uint32Array(65536);
  for (const { index, color: [red, green, blue] } of chosenModel().classes) {
    const alpha = lit === null || lit === index ? 255 : 40;
    colors[index] = (alpha << 24) | (blue << 16) | (green << 8) | red;
  }
  for (let place = 0; place < pixels.length; place++) pixels[place] = colors[state.mask[place]];
  pen.putImageData(image, 0, 0);
  look();
}

function look() {
  at("mask").style.opacity = at("alpha").value / 100;
  at("mask").style.clipPath = `inset(0 0 0 ${at("split").value}%)`;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;

function showClasses() {
  const rows = areas().map(({ index, name, color, share }) => {
    const button = document.createElement("button");
    const [chip, label, number, bar, fill] = ["span", "span", "span", "span", "span"].map((tag) => document.createElement(tag));
    button.type = "button";
    button.dataset.index = index;
    button.setAttribute("aria-pressed", "false");
    chip.className = "chip";
    bar.className = "bar";
    number.className = "share";
    chip.style.background = fill.style.background = `rgb(${color.join(",")})`;
    fill.style.width = `${100 * share}%`;
    label.textContent = name;
    number.textContent = percent(share);
    bar.append(fill);
    button.append(chip, label, number, bar);
    button.addEventListener("pointerenter", () => paint(index));
    button.addEventListener("pointerleave", () => paint());
    button.addEventListener("focus", () => paint(index));
    button.addEventListener("blur", () => paint());
    button.addEventListener("click", () => { press(state.pressed === index ? null : index); paint(); });
    const row = document.createElement("li");
    row.append(button);
    return row;
  });
  at("classes").replaceChildren(...rows);
}

function press(index) {
  state.pressed = index;
  for (const button of at("classes").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.index) === index));
  }
}

function light(index) {
  for (const button of at("classes").querySelectorAll("button")) {
    button.classList.toggle("lit", Number(button.dataset.index) === index);
  }
}

let last = null;
at("mask").addEventListener("pointermove", (event) => {
  const box = at("mask").getBoundingClientRect();
  const scale = Math.min(box.width / state.width, box.height / state.height);
  const x = Math.floor((event.clientX - box.left - (box.width - scale * state.width) / 2) / scale);
  const y = Math.floor((event.clientY - box.top - (box.height - scale * state.height) / 2) / scale);
  const inside = x >= 0 && y >= 0 && x < state.width && y < state.height;
  const index = inside ? state.mask[y * state.width + x] : null;
  if (index === last) return;
  last = index;
  const found = chosenModel().classes[index];
  light(found ? index : null);
  at("under").hidden = !found;
  at("under").textContent = found ? found.name : "";
  paint(found ? index : state.pressed);
});
at("mask").addEventListener("pointerleave", () => { last = null; light(null); at("under").hidden = true; paint(); });

function addTime(took) {
  const model = chosenModel();
  const row = document.createElement("tr");
  for (const text of [`${model.name}, ${model.engine}`, `${state.width}×${state.height}`, String(took)]) {
    row.insertCell().textContent = text;
  }
  at("times").prepend(row);
  while (at("times").rows.length > 5) at("times").lastElementChild.remove();
}

// Buttons, dropping, pasting, camera

for (const id of ["alpha", "split"]) at(id).addEventListener("input", look);
at("model").addEventListener("change", () => { showLicence(); segment(); });
at("again").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  if (file) take(file, file.name);
  at("file").value = "";
});

for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); at("drop").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) take(file, file.name);
  else fail(new Error("that is not a file; save the picture first, and drop the file"));
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) take(file, file.name);
});

at("downloads").addEventListener("click", async (event) => {
  const kind = event.target.dataset.save;
  if (!kind) return;
  tell(`Making the ${event.target.textContent.toLowerCase()} …`);
  try {
    const path = `/v1/segment?save=${kind}&model=${encodeURIComponent(at("model").value)}`;
    const answer = await ask(path, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: state.photo });
    const link = document.createElement("a");
    const ending = { json: ".json", polygons: ".geojson", probabilities: "_probabilities.npz" }[kind] || `_${kind}.png`;
    link.href = URL.createObjectURL(await answer.blob());
    link.download = state.name + ending;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // browsers may open it later than the click
    tell(`${link.download} is saved.`);
  } catch (error) { fail(error); }
});

let stream = null;
at("camera").addEventListener("click", async () => {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    at("video").srcObject = stream;
    at("camera-dialog").showModal();
  } catch {
    fail(new Error("no camera could be opened: browsers allow it on https and on this machine only"));
  }
});
at("camera-dialog").addEventListener("close", () => { for (const track of stream ? stream.getTracks() : []) track.stop(); });
at("camera-close").addEventListener("click", () => at("camera-dialog").close());
at("shoot").addEventListener("click", () => {
  const video = at("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => { at("camera-dialog").close(); if (blob) take(blob, "camera.jpg"); }, "image/jpeg", 0.95);
});

begin();
