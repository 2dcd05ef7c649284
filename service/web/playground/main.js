// The page's course: address -> state -> one request -> a view that every panel draws its part of.

import {Problem, ask, explainQuery, supersede} from "./api.js";
import {renderAttention} from "./attention.js";
import {renderBeside} from "./beside.js";
import {renderBox, renderChannel} from "./channel.js";
import {meet} from "./channel_card.js";
import {catalogue, detailOf, known, served, usual} from "./catalogue.js";
import {renderCompare} from "./compare.js";
import {renderControls} from "./controls.js";
import {byId, fill, h} from "./dom.js";
import {renderDownloads} from "./downloads.js";
import {light, renderGallery, showGallery} from "./gallery.js";
import {LANGUAGES, speak, spoken, t, tOf} from "./i18n.js";
import {SAMPLES, listen, loadSample, renderIntake} from "./intake.js";
import {renderMaps} from "./maps.js";
import {renderMethods} from "./methods.js";
import {renderNetworkMap} from "./network_map.js";
import {groupOf, keep} from "./own.js";
import {greys, overlayColours} from "./pictures.js";
import {renderPredictions, renderSays, suggestLabels} from "./predictions.js";
import {attempt, tell as report} from "./problems.js";
import {renderRecipe} from "./recipe.js";
import {keepReference, referenceOf} from "./reference.js";
import {nameOf, score} from "./scores.js";
import {giveBack, onLook, redraw, showHeat, showPhoto, wear} from "./stage.js";
import {another, changed, isPlain, looks, read, seesWhole, without, write} from "./state.js";
import {renderTrust} from "./trust.js";
import {renderWhatIf} from "./what_if.js";

// What each tab draws when it is open, and the kinds of the requests that it sends for that.
const TABS = {
  answer: {panels: [renderCompare], asks: ["alike"]},
  network: {panels: [renderNetworkMap, drawControls], asks: []},
  attention: {panels: [renderAttention], asks: ["gates"]},
  features: {panels: [renderMaps], asks: []},
  trust: {panels: [renderTrust, renderMethods], asks: ["trust", "methods"]},
  "what-if": {panels: [renderWhatIf, renderBeside], asks: ["what-if", "beside"]},
  channel: {panels: [renderChannel, renderBox], asks: ["channel", "apart", "box"]},
  export: {panels: [renderDownloads, renderRecipe], asks: []},
};
const NAMES = Object.keys(TABS);
const PATIENCE = 150;  // milliseconds before a wait is shown: what is quicker needs no sign

let state = read();
let photo = null;      // the one that is asked about
let presented = null;  // the one on the stage
let group = [];   // the visitor's photographs that came together
let view = null;  // the last answer with what it was asked for
let drawn = new Set();  // the tabs that show it
const filled = new Map();  // the photograph of which a tab shows something, by tab

/** Change the state and show what it now says. */
async function update(patch) {
  if (!("model" in patch)) return change(patch);
  const problem = await attempt(() => changeModel(patch.model), {again: () => update(patch)});
  if (problem && view) renderView();
}

function change(patch) {
  state = changed(state, patch);
  return explain({step: true});
}

/** Change how the answer is looked at, which asks nothing of the service. */
function look(patch) {
  state = {...state, ...patch};
  note(false);
}

/** Go to another part of the page, which "back" undoes. */
function visit(patch) {
  state = {...state, ...patch};
  note(true);
  drawn.delete(openTab());
  meet({...view, state: {...view.state, ...looks(state)}});
  showTab();
}

/** Put what is shown into the address: it follows the answers, so nothing refused is ever in it. */
function note(step) {
  const shown = view ?? {state, photo};
  write({...shown.state, ...looks(state)}, {step, own: shown.photo?.id ?? ""});
}

/** Names that another network has no use for are dropped when it is chosen. */
async function changeModel(model) {
  const before = known(state.model);
  const after = await detailOf(model);
  const has = (name) => after.layers.some((layer) => layer.name === name);
  const sameKind = before?.output.kind === after.output.kind;
  const sameClasses = sameKind && before?.labels.join() === after.labels.join();
  const kept = (name) => (sameKind ? state[name] : "");
  return change({
    model: model === usual() ? "" : model,
    layer: has(state.layer) ? state.layer : "",
    layers: state.layers.split(",").every(has) ? state.layers : "",
    target: sameClasses ? state.target : "",
    versus: sameClasses ? state.versus : "",
    against: sameClasses ? state.against : "",
    region: kept("region"),
    direction: kept("direction"),
    reference: kept("reference"),
    view: seesWhole(after) || state.view !== "whole" ? state.view : "",
    detail: seesWhole(after) ? state.detail : "",
    beside_model: "",
    method: after.methods.includes(state.method) ? state.method : "",
    channels: "",
    channel: "",
    box: "",
  });
}

/** Ask about the photograph as the state says, draw the answer. `step`: "back" undoes it; `keeps`: see `attempt`. */
async function explain({step = false, keeps = false} = {}) {
  const signal = supersede("view");
  const asked = {state, photo};
  const waiting = setTimeout(() => busy(true), PATIENCE);
  byId("tab-export").inert = true;  // its files would be of the last answer
  present(photo);
  signal.addEventListener("abort", () => clearTimeout(waiting));
  const again = () => {
    photo = asked.photo;
    state = {...asked.state, ...looks(state)};
    return explain({step});
  };
  const name = photo === view?.photo ? "" : photo.sample ? t(`sample.${photo.sample}`) : photo.name;
  const problem = await attempt(async () => {
    await catalogue();
    const detail = await detailOf(asked.state.model);
    const reference = await referenceOf(asked.state, detail);
    const query = explainQuery(asked.state, detail, reference);
    const reply = await patiently(() => ask("v1/explain", asked.photo, query, signal, reference));
    const cam = reply.result.grad_cam?.[0];
    const mask = cam && await greys(cam.mask);
    if (signal.aborted) return;
    const heat = [reply.result.image, cam, mask, overlayColours(asked.state), asked.state.signed === "true"];
    view = {...asked, reference, detail, query, reply, heat, result: reply.result, update, attempt, look, visit};
    note(step);
    showHeat(...heat);
    suggestLabels(detail.labels);
    renderView();
    const top = reply.result.predictions[0] ?? cam?.target;
    byId("status").textContent = top
      ? tOf("done", detail.output.kind, {label: nameOf(top), share: score(top)})
      : t("reference.wanted");
  }, {again, keeps, name});
  if (signal.aborted) return problem;
  clearTimeout(waiting);
  busy(false);
  byId("tab-export").inert = false;
  if (problem) await recover(problem);
  document.body.classList.toggle("blank", view?.photo !== photo);
  return problem;
}

/** The answer of `work`, tried once more after a deadline: a network is compiled for each new size, and remains so. */
async function patiently(work) {
  try {
    return await work();
  } catch (problem) {
    if (!(problem instanceof Problem) || problem.status !== 504) throw problem;
    busy(true, t("busy.again"));
    return work();
  }
}

/**
 * After a request that failed: back to the last answer, save from a photograph that may be answered yet; without one, on
 * with what was not refused.
 */
async function recover(problem) {
  if (view && view.photo !== photo && !problem.refused) return;
  if (view) {
    photo = view.photo;
    keepReference(view.reference);
    state = {...view.state, ...looks(state)};
    if (present(photo)) showHeat(...view.heat);
    renderView();
    note(false);
  } else if (problem.ofOption && !isPlain(state)) {
    state = without(state, problem.detail);
    byId("problem").append(h("p", {}, t("problem.instead")));
    await explain({keeps: true});
  } else if (problem.refused && !photo.sample) {
    await takeSample(SAMPLES[0], another(state, SAMPLES[0]), {keeps: true});
  } else if (known("")) {
    drawControls();
  }
}

/** Show the photograph, also before there is an answer. False if it is there already. */
function present(next) {
  if (presented === next) return false;
  presented = next;
  showPhoto(next.bitmap);
  renderIntake(next);
  light(next);
  return true;
}

function drawControls() {
  const detail = known(state.model) ?? known("");
  renderControls({state, detail, models: served(), update});
}

/** Draw the answer in the tab that is open; the others are drawn, and ask for their parts, once they are opened. */
function renderView() {
  drawn = new Set();
  showTabs();
  const open = openTab();
  for (const name of NAMES) if (name !== open) TABS[name].asks.forEach(supersede);
  const shown = {...view, state: {...view.state, ...looks(state)}};
  meet(shown);
  renderIntake(photo);
  renderSays(shown);
  renderGallery(shown);
  const why = shown.detail.output.kind === "embedding" ? t("reference.wanted") : shown.detail.default_layer.why;
  byId("nothing").textContent = why ?? "";
  attempt(() => renderPredictions(shown), {keeps: true});  // also when closed: it listens to the stage
  drawTab(open);
}

function drawTab(name) {
  if (!view || photo !== view.photo || drawn.has(name)) return;
  drawn.add(name);
  const shown = {...view, state: {...view.state, ...looks(state)}};
  const panel = byId(`tab-${name}`);
  const now = drawn;
  const focused = document.activeElement;
  panel.setAttribute("aria-busy", "true");
  for (const body of panel.querySelectorAll(".panel:not(#predictions) > .body")) {
    if (filled.get(name) !== view.photo) fill(body, h("p", {class: "muted computing"}, t("busy")));
  }
  filled.set(name, view.photo);
  attempt(() => Promise.all(TABS[name].panels.map((draw) => draw(shown))), {keeps: true}).then(() => {
    const {activeElement: still, body} = document;
    if (focused !== body && (still === body || !still.checkVisibility())) panel.focus({preventScroll: true});
    if (now !== drawn) return;
    panel.setAttribute("aria-busy", "false");
    for (const left of panel.querySelectorAll(".computing")) left.remove();
  });
}

/** The tabs there are: that of channels is for networks with an atlas. */
const tabs = () => NAMES.filter((name) => name !== "channel" || (view ? view.detail.atlas : state.tab === name));

const openTab = () => (tabs().includes(state.tab) ? state.tab : NAMES[0]);

/** Mark the tab that the state says, and show its panel. */
function showTabs() {
  byId("open-channel").hidden = !tabs().includes("channel");
  if (openTab() !== "channel") giveBack();
  for (const name of NAMES) {
    const is = name === openTab();
    byId(`open-${name}`).setAttribute("aria-selected", String(is));
    byId(`open-${name}`).tabIndex = is ? 0 : -1;
    byId(`tab-${name}`).hidden = !is;
  }
  const {offsetLeft, offsetWidth, parentElement: list} = byId(`open-${openTab()}`);
  list.scrollLeft = offsetLeft - list.offsetLeft - (list.clientWidth - offsetWidth) / 2;
}

function showTab() {
  showTabs();
  drawTab(openTab());
}

function choose(name) {
  look({tab: name === NAMES[0] ? "" : name});
  showTab();
  byId(`open-${name}`).focus();
}

function busy(is, why = t("busy")) {
  document.body.classList.toggle("waiting", is);
  if (is) document.body.classList.toggle("blank", view?.photo !== photo);
  byId("main").setAttribute("aria-busy", String(is));
  for (const sign of document.querySelectorAll(".busy")) sign.textContent = why;
  if (is) byId("status").textContent = why;
}

/** Take a photograph in and explain it. What the service can't read leaves all as it was. */
async function take(next, nextState, {step = true, keeps = false} = {}) {
  const signal = supersede("photo");
  // null: a TIFF, say, which the service can read
  next.bitmap ??= await createImageBitmap(next.blob).catch(() => null);
  if (signal.aborted) return null;
  photo = next;
  state = nextState;
  return explain({step, keeps});
}

/** Take in what came together: the first that the service can read is explained, and all are in the gallery. */
async function takeAll(photos, notes) {
  if (!photos.length) {
    report(notes.map((note) => note()));
    return;
  }
  keep(photos).then(() => photo && renderIntake(photo));
  showAll(photos, notes);
  for (const next of photos) {
    const problem = await take(next, another(state, ""), {keeps: next !== photos[0]});
    if (!problem?.refused || problem.ofOption || group !== photos) return;
  }
  if (photos.length > 1) report([t("gallery.none", {count: photos.length})]);
}

function showAll(photos, notes = []) {
  group = photos;
  showGallery(photos, notes, (next) => take(next, another(state, "")));
}

const takeSample = (name, nextState, how) => attempt(async () => take(await loadSample(name), nextState, how), how);

/** Show what the address says, at the start and after "back": where it names no photograph, the first shipped one. */
async function restore() {
  const next = read();
  const signal = supersede("restore");
  const id = SAMPLES.includes(next.sample) ? "" : history.state?.own;
  const mine = id ? await groupOf(id) : [];
  if (signal.aborted) return;
  const found = mine.find((each) => each.id === id);
  if (!SAMPLES.includes(next.sample)) next.sample = found ? "" : SAMPLES[0];
  wear(next);
  Object.assign(state, looks(next));
  showTab();
  if (found && !group.includes(found)) showAll(mine);
  if (next.sample && next.sample !== photo?.sample) {
    await takeSample(next.sample, next, {step: false});
  } else if (found && found !== photo) {
    await take(found, next, {step: false});
  } else {
    state = next;
    await explain();
  }
}

async function switchLanguage() {
  const names = Object.keys(LANGUAGES);
  look({lang: names[(names.indexOf(spoken()) + 1) % names.length]});
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
  if (view?.photo === photo) renderView();
  else if (known("")) drawControls();
}

byId("language").addEventListener("click", switchLanguage);
addEventListener("popstate", restore);
byId("tabs").addEventListener("click", (event) => {
  const tab = event.target.closest("[role=tab]");
  if (tab) choose(tab.id.slice("open-".length));
});
byId("tabs").addEventListener("keydown", (event) => {
  const names = tabs();
  const at = names.indexOf(openTab());
  const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: names.length - 1}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  choose(names.at(to % names.length));
});
onLook(look);
listen(
  (name) => takeSample(name, another(state, name)),
  takeAll,
);

async function start() {
  showTab();
  await tell();
  if (!photo) await restore();  // unless someone was quicker
}

await attempt(start);
