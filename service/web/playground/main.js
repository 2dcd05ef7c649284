// The page's course: address -> state -> one request -> a view that every panel draws its part of.

import {ask, explainQuery, supersede} from "./api.js";
import {renderAttention} from "./attention.js";
import {renderBeside} from "./beside.js";
import {catalogue, detailOf, known, served, usual} from "./catalogue.js";
import {renderCompare} from "./compare.js";
import {renderControls} from "./controls.js";
import {byId, h} from "./dom.js";
import {renderGallery, showGallery} from "./gallery.js";
import {LANGUAGES, speak, spoken, t, tOf} from "./i18n.js";
import {SAMPLES, listen, loadSample, renderIntake} from "./intake.js";
import {renderMaps} from "./maps.js";
import {renderMethods} from "./methods.js";
import {groupOf, keep} from "./own.js";
import {greys, overlayColours} from "./pictures.js";
import {renderPredictions, suggestLabels} from "./predictions.js";
import {attempt, tell as report} from "./problems.js";
import {renderRecipe} from "./recipe.js";
import {keepReference, referenceOf} from "./reference.js";
import {nameOf, score} from "./scores.js";
import {onLook, redraw, showHeat, showPhoto, wear} from "./stage.js";
import {another, changed, isPlain, looks, read, without, write} from "./state.js";
import {renderTrust} from "./trust.js";
import {renderWhatIf} from "./what_if.js";

const PATIENCE = 150;  // milliseconds before a wait is shown: what is quicker needs no sign

let state = read();
let photo = null;      // the one that is asked about
let presented = null;  // the one on the stage
let group = [];   // the visitor's photographs that came together
let view = null;  // the last answer with what it was asked for

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
    beside_model: "",
    method: after.methods.includes(state.method) ? state.method : "",
    channels: "",
  });
}

/** Ask about the photograph as the state says, draw the answer. `step`: "back" undoes it; `keeps`: see `attempt`. */
async function explain({step = false, keeps = false} = {}) {
  const signal = supersede("view");
  const asked = {state, photo};
  const waiting = setTimeout(() => busy(true), PATIENCE);
  signal.addEventListener("abort", () => clearTimeout(waiting));
  const again = () => {
    photo = asked.photo;
    state = {...asked.state, ...looks(state)};
    if (photo.bitmap) present(photo);
    return explain({step});
  };
  const name = photo !== view?.photo && !photo.sample ? photo.name : "";
  const problem = await attempt(async () => {
    await catalogue();
    const detail = await detailOf(asked.state.model);
    const reference = await referenceOf(asked.state, detail);
    const query = explainQuery(asked.state, detail, reference);
    const reply = await ask("v1/explain", asked.photo, query, signal, reference);
    const cam = reply.result.grad_cam?.[0];
    const mask = cam && await greys(cam.mask);
    if (signal.aborted) return;
    const heat = [reply.result.image, cam, mask, overlayColours(asked.state), asked.state.signed === "true"];
    view = {...asked, reference, detail, query, reply, heat, result: reply.result, update, attempt, look};
    note(step);
    present(photo);
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
  if (problem) await recover(problem);
  document.body.classList.toggle("blank", view?.photo !== photo);
  return problem;
}

/** After a request that failed: back to the last answer; without one, on with what was not refused. */
async function recover(problem) {
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
  } else if (problem.refused) {
    clear();
  } else if (known("")) {
    drawControls();
  }
}

/** Show the photograph, also before there is an answer. False if it is there already. */
function present(next) {
  if (presented === next) return false;
  presented = next;
  document.body.dataset.step = "work";
  document.body.classList.remove("blank");
  showPhoto(next.bitmap);
  renderIntake(next);
  return true;
}

/** The page as it is without a photograph. */
function clear() {
  photo = view = presented = null;
  supersede("view");
  busy(false);
  document.body.dataset.step = "start";
}

function drawControls() {
  const detail = known(state.model) ?? known("");
  renderControls({state, detail, models: served(), update});
}

function renderView() {
  const shown = {...view, state: {...view.state, ...looks(state)}};
  renderIntake(view.photo);
  drawControls();
  renderMethods(shown);
  renderTrust(shown);
  renderWhatIf(shown);
  renderBeside(shown);
  renderRecipe(shown);
  renderGallery(shown);
  attempt(() => Promise.all([
    renderPredictions(shown), renderCompare(shown), renderMaps(shown), renderAttention(shown),
  ]), {keeps: true});
}

function busy(is) {
  document.body.classList.toggle("waiting", is);
  byId("main").setAttribute("aria-busy", String(is));
  if (is) byId("status").textContent = t("busy");
}

/** Take a photograph in and explain it. What the service can't read leaves all as it was. */
async function take(next, nextState, {step = true, keeps = false} = {}) {
  const signal = supersede("photo");
  // null: a TIFF, say, which the service can read
  next.bitmap ??= await createImageBitmap(next.blob).catch(() => null);
  if (signal.aborted) return null;
  photo = next;
  state = nextState;
  if (photo.bitmap) present(photo);
  return explain({step, keeps});
}

/** Take in what came together: the first that the service can read is explained, and all are in the gallery. */
async function takeAll(photos, notes) {
  if (!photos.length) {
    report(notes.map((note) => note()));
    return;
  }
  keep(photos).then(() => renderIntake(view?.photo ?? photo));
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

const takeSample = (name, nextState, how) => attempt(async () => take(await loadSample(name), nextState, how));

/** Show what the address says: at the start, and after "back". */
async function restore() {
  const next = read();
  if (!SAMPLES.includes(next.sample)) next.sample = "";
  wear(next);
  const signal = supersede("restore");
  const mine = !next.sample && history.state?.own ? await groupOf(history.state.own) : [];
  if (signal.aborted) return;
  const found = mine.find(({id}) => id === history.state.own);
  if (found && !group.includes(found)) showAll(mine);
  if (next.sample && next.sample !== photo?.sample) {
    await takeSample(next.sample, next, {step: false});
  } else if (found && found !== photo) {
    await take(found, next, {step: false});
  } else if (photo && (next.sample || found)) {
    state = next;
    await explain();
  } else {
    clear();
    state = next;
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
  if (view) renderView();
  else if (photo && known("")) drawControls();
}

byId("language").addEventListener("click", switchLanguage);
addEventListener("popstate", restore);
onLook(look);
listen(
  (name) => takeSample(name, another(state, name)),
  takeAll,
);

async function start() {
  await tell();
  await catalogue();
  if (!photo) await restore();  // unless someone was quicker
}

// a small window has room for the answer first
byId("settings").open = matchMedia("(min-width: 721px) and (min-height: 820px)").matches;
await attempt(start);
