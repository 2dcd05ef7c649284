// The page's course: address -> state -> one request -> a view that every panel draws its part of.

import {Problem, ask, explainQuery, get, supersede} from "./api.js";
import {renderAttention} from "./attention.js";
import {renderCompare} from "./compare.js";
import {renderControls} from "./controls.js";
import {byId, fill, h} from "./dom.js";
import {LANGUAGES, percent, speak, spoken, t} from "./i18n.js";
import {SAMPLES, listen, loadSample, renderIntake} from "./intake.js";
import {renderMaps} from "./maps.js";
import {greys, loadColours} from "./pictures.js";
import {renderPredictions, suggestLabels} from "./predictions.js";
import {renderRecipe} from "./recipe.js";
import {redraw, showHeat, showPhoto} from "./stage.js";
import {read, write} from "./state.js";

const PATIENCE = 150;  // milliseconds before a wait is shown: what is quicker needs no sign

let state = read();
let photo = null;
let models = [];
let view = null;  // the last answer with what it was asked for
const details = new Map();

/** Everything in a network that has a name; asked for once. The first network's where the state names none. */
async function detailOf(name) {
  const wanted = name || models.find((model) => model.default).name;
  if (!details.has(wanted)) details.set(wanted, await get(`v1/models/${encodeURIComponent(wanted)}`));
  return details.get(wanted);
}

/** Run `work`; a problem is shown, and what was superseded is nobody's concern. True if it ended well. */
async function attempt(work) {
  try {
    await work();
    fill(byId("problem"));
    return true;
  } catch (error) {
    if (error.name === "AbortError") return false;
    if (!(error instanceof Problem)) throw error;
    const unreachable = error.message === "unreachable";
    fill(
      byId("problem"),
      h("strong", {}, unreachable ? t("unreachable") : error.message),
      h("p", {}, unreachable ? t("unreachable.detail") : error.detail ?? ""),
      error.requestId && h("p", {class: "muted"}, t("problem.request", {id: error.requestId})),
    );
    return false;
  }
}

/** Change the state and show what it now says. */
function update(patch) {
  state = {...state, ...patch};
  write(state, {step: true});
  return explain();
}

/** Names that another network has no use for are dropped when it is chosen. */
async function changeModel(patch) {
  const before = await detailOf(state.model);
  const after = await detailOf(patch.model);
  const has = (name) => after.layers.some((layer) => layer.name === name);
  const sameClasses = before.labels.join() === after.labels.join();
  return update({
    model: patch.model === models[0].name ? "" : patch.model,
    layer: has(state.layer) ? state.layer : "",
    layers: state.layers.split(",").every(has) ? state.layers : "",
    target: sameClasses ? state.target : "",
    versus: sameClasses ? state.versus : "",
    method: after.methods.includes(state.method) ? state.method : "",
  });
}

/** Ask about the photograph as the state says, and draw the answer. */
async function explain() {
  if (!photo) return;
  const signal = supersede("view");
  const asked = {state, photo};
  const waiting = setTimeout(() => busy(true), PATIENCE);
  signal.addEventListener("abort", () => clearTimeout(waiting));
  const worked = await attempt(async () => {
    const detail = await detailOf(asked.state.model);
    const query = explainQuery(asked.state, detail);
    const reply = await ask("v1/explain", asked.photo, query, signal);
    const drawn = {...asked, detail, models, query, reply, result: reply.result, update, attempt};
    drawn.update = (patch) => ("model" in patch ? attempt(() => changeModel(patch)) : update(patch));
    const cam = reply.result.grad_cam?.[0];
    const mask = cam && await greys(cam.mask);
    if (signal.aborted) return;
    view = drawn;
    document.body.dataset.step = "work";
    const isSigned = asked.state.signed === "true";
    showHeat(reply.result.image, cam, mask, asked.state.colormap || (isSigned ? "coolwarm" : "turbo"), isSigned);
    suggestLabels(detail.labels);
    renderView();
    const [top] = reply.result.predictions;
    byId("status").textContent = t("done", {label: top.label, share: percent(top.probability)});
  });
  if (signal.aborted) return;
  clearTimeout(waiting);
  busy(false);
  if (!worked && view?.photo !== photo) document.body.dataset.step = "start";
}

function renderView() {
  renderIntake(view.photo);
  renderControls(view);
  renderPredictions(view);
  renderCompare(view);
  renderRecipe(view);
  attempt(() => Promise.all([renderMaps(view), renderAttention(view)]));
}

function busy(is) {
  document.body.classList.toggle("waiting", is);
  byId("main").setAttribute("aria-busy", String(is));
  if (is) byId("status").textContent = t("busy");
}

/** Take a photograph in and explain it. */
async function take(next) {
  photo = next;
  const bitmap = await createImageBitmap(photo.blob).catch(() => null);  // a TIFF, say: the service may know it
  if (photo !== next) return;
  showPhoto(bitmap);
  renderIntake(photo);
  await explain();
}

/** Show what the address says: at the start, and after "back". */
async function restore() {
  state = read();
  if (state.sample && state.sample !== photo?.sample) {
    await attempt(async () => take(await loadSample(state.sample)));
  } else if (photo?.sample && !state.sample) {
    photo = view = null;
    supersede("view");
    busy(false);
    document.body.dataset.step = "start";
  } else {
    await explain();
  }
}

async function switchLanguage() {
  const names = Object.keys(LANGUAGES);
  state = {...state, lang: names[(names.indexOf(spoken()) + 1) % names.length]};
  write(state, {step: false});
  await tell();
}

async function tell() {
  await speak(state.lang);
  const names = Object.keys(LANGUAGES);
  const next = names[(names.indexOf(spoken()) + 1) % names.length];
  byId("language").textContent = LANGUAGES[next];
  byId("language").lang = next;
  renderIntake(photo);
  redraw();
  if (view) renderView();
}

byId("language").addEventListener("click", switchLanguage);
addEventListener("popstate", restore);
listen(
  (name) => {
    // another photograph, another question: the class is chosen anew
    state = {...state, sample: name, target: "", versus: ""};
    write(state, {step: true});
    attempt(async () => take(await loadSample(name)));
  },
  (own) => {
    state = {...state, sample: "", target: "", versus: ""};
    write(state, {step: true});
    take(own);
  },
);
await attempt(async () => {
  await tell();
  const [{models: served}] = await Promise.all([get("v1/models"), loadColours()]);
  models = served;
});
if (!SAMPLES.includes(state.sample)) state.sample = "";
document.body.classList.add("ready");
if (state.sample) await restore();
