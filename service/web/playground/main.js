// The page's course: address -> state -> one request -> a view that every panel draws its part of.

import {Problem, ask, explainQuery, get, supersede, useKey} from "./api.js";
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

const PASSING = [429, 500, 502, 503, 504];  // what may be gone when it is asked again

let state = read();
let photo = null;
let own = null;   // the visitor's last photograph, for "back"
let models = [];
let view = null;  // the last answer with what it was asked for
const details = new Map();

const usual = () => models.find((model) => model.default).name;

/** Everything in a network that has a name; asked for once. */
async function detailOf(name) {
  const wanted = name || usual();
  if (!details.has(wanted)) details.set(wanted, await get(`v1/models/${encodeURIComponent(wanted)}`));
  return details.get(wanted);
}

let loaded;

/** What every view needs to know: the networks and the colour maps. Asked for once, again only after a failure. */
function catalogue() {
  loaded ??= Promise.all([get("v1/models"), loadColours()]).then(async ([{models: served}]) => {
    models = served;
    await detailOf("");
  }).catch((error) => {
    loaded = undefined;
    throw error;
  });
  return loaded;
}

/** Run `work`; a problem is shown, and what was superseded is nobody's concern. True if it ended well. */
async function attempt(work, again = () => attempt(work)) {
  fill(byId("problem"));
  try {
    await work();
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
      (unreachable || PASSING.includes(error.status)) &&
        h("button", {type: "button", class: "link", onclick: again}, t("again")),
      error.status === 401 && keyField(again),
    );
    return false;
  }
}

/** A form for the API key that the service asks for; `again` runs with it. */
function keyField(again) {
  const visible = "[!-~]+";  // what a header can carry
  const field = h("input", {type: "password", required: true, pattern: visible, autocomplete: "off"});
  const submit = (event) => {
    event.preventDefault();
    useKey(field.value);
    again();
  };
  return h("form", {class: "control", onsubmit: submit}, h("label", {}, t("key"), field), h("button", {class: "button plain"}, t("key.use")));
}

/** Change the state and show what it now says. */
const update = (patch) => ("model" in patch ? attempt(() => changeModel(patch.model)) : change(patch));

function change(patch) {
  state = {...state, ...patch};
  write(state, {step: true, own: Boolean(photo) && !photo.sample});
  return explain();
}

/** Names that another network has no use for are dropped when it is chosen. */
async function changeModel(model) {
  const before = details.get(state.model || usual());
  const after = await detailOf(model);
  const has = (name) => after.layers.some((layer) => layer.name === name);
  const sameClasses = before?.labels.join() === after.labels.join();
  return change({
    model: model === usual() ? "" : model,
    layer: has(state.layer) ? state.layer : "",
    layers: state.layers.split(",").every(has) ? state.layers : "",
    target: sameClasses ? state.target : "",
    versus: sameClasses ? state.versus : "",
    method: after.methods.includes(state.method) ? state.method : "",
  });
}

/** Ask about the photograph as the state says, and draw the answer, `arrived` called just before. True if one came. */
async function explain(arrived) {
  const signal = supersede("view");
  const asked = {state, photo};
  const waiting = setTimeout(() => busy(true), PATIENCE);
  signal.addEventListener("abort", () => clearTimeout(waiting));
  const worked = await attempt(async () => {
    await catalogue();
    const detail = await detailOf(asked.state.model);
    const query = explainQuery(asked.state, detail);
    const reply = await ask("v1/explain", asked.photo, query, signal);
    const cam = reply.result.grad_cam?.[0];
    const mask = cam && await greys(cam.mask);
    if (signal.aborted) return;
    arrived?.();
    view = {...asked, detail, query, reply, result: reply.result, update, attempt};
    const isSigned = asked.state.signed === "true";
    showHeat(reply.result.image, cam, mask, asked.state.colormap || (isSigned ? "coolwarm" : "turbo"), isSigned);
    suggestLabels(detail.labels);
    renderView();
    const [top] = reply.result.predictions;
    byId("status").textContent = t("done", {label: top.label, share: percent(top.probability)});
  }, () => explain(arrived));
  if (signal.aborted) return false;
  clearTimeout(waiting);
  busy(false);
  const blank = view?.photo !== photo;
  document.body.classList.toggle("blank", blank);
  if (blank && details.size) drawControls();  // so that what was wrong with the request can be put right
  return worked;
}

function drawControls() {
  const detail = details.get(state.model || usual()) ?? details.get(usual());
  renderControls({state, detail, models, update});
}

function renderView() {
  renderIntake(view.photo);
  drawControls();
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

/** Take a photograph in and explain it. What neither the browser nor the service can read leaves all as it was. */
async function take(next, nextState) {
  const before = {photo, state};
  const signal = supersede("photo");
  const bitmap = await createImageBitmap(next.blob).catch(() => null);  // null: a TIFF, say, which the service can read
  if (signal.aborted) return;
  photo = next;
  state = nextState;
  if (bitmap) receive(bitmap);
  const worked = await explain(bitmap ? undefined : () => receive(null));
  if (!worked && !bitmap && photo === next) {
    ({photo, state} = before);
    document.body.classList.toggle("blank", view?.photo !== photo);
  }
}

function receive(bitmap) {
  if (!photo.sample) own = photo;
  write(state, {step: true, own: !photo.sample});
  document.body.dataset.step = "work";
  document.body.classList.remove("blank");
  showPhoto(bitmap);
  renderIntake(photo);
}

const takeSample = (name, nextState) => attempt(async () => take(await loadSample(name), nextState));

/** Show what the address says: at the start, and after "back". */
async function restore() {
  const next = read();
  if (!SAMPLES.includes(next.sample)) next.sample = "";
  if (next.sample && next.sample !== photo?.sample) {
    await takeSample(next.sample, next);
  } else if (!next.sample && history.state?.own && own && own !== photo) {
    await take(own, next);
  } else if (!next.sample && !history.state?.own) {
    photo = view = null;
    state = next;
    supersede("view");
    busy(false);
    document.body.dataset.step = "start";
  } else {
    state = next;
    await explain();
  }
}

async function switchLanguage() {
  const names = Object.keys(LANGUAGES);
  state = {...state, lang: names[(names.indexOf(spoken()) + 1) % names.length]};
  write(state, {step: false, own: Boolean(photo) && !photo.sample});
  await tell();
}

async function tell() {
  await speak(state.lang);
  document.body.classList.add("ready");
  const names = Object.keys(LANGUAGES);
  const next = names[(names.indexOf(spoken()) + 1) % names.length];
  byId("language").textContent = LANGUAGES[next];
  byId("language").lang = next;
  renderIntake(photo);
  redraw();
  if (view) renderView();
  else if (photo && details.size) drawControls();
}

byId("language").addEventListener("click", switchLanguage);
addEventListener("popstate", restore);
listen(
  // another photograph, another question: the class is chosen anew
  (name) => takeSample(name, {...state, sample: name, target: "", versus: ""}),
  (file) => take(file, {...state, sample: "", target: "", versus: ""}),
);

async function start() {
  await tell();
  await catalogue();
  if (!photo) await restore();  // unless someone was quicker
}

// a small window has room for the answer first
byId("settings").open = matchMedia("(min-width: 721px) and (min-height: 820px)").matches;
await attempt(start);
