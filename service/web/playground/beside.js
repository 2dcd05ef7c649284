// Another photograph, or another network, beside the view: predictions, and maps of one class on one scale.

import {ask, explainQuery, supersede} from "./api.js";
import {detailOf, served} from "./catalogue.js";
import {byId, fill, h} from "./dom.js";
import {percent, t} from "./i18n.js";
import {SAMPLES, loadSample, sampleFile} from "./intake.js";
import {enlarged} from "./pictures.js";
import {reachOf, trio} from "./trio.js";

const panel = byId("beside");
const body = panel.querySelector(".body");

let own = null;  // a photograph of the visitor's, which no address holds
let last = {};   // the last answer, and all that it depended on

/** Draw the choice of what stands beside a view, and what stands there. */
export function renderBeside(view) {
  const cam = view.result.grad_cam?.[0];
  panel.hidden = !cam;
  supersede("beside");
  if (!cam) return;
  const results = h("div", {class: "results", "aria-live": "polite"});
  fill(body, pictures(view), networks(view), results);
  const {beside, beside_model: model} = view.state;
  if (beside || own || model) fetchOther(view, cam, results);
}

/** Put something else beside the view; an empty choice takes it away. */
function choose(view, chosen) {
  view.look(chosen);
  renderBeside({...view, state: {...view.state, ...chosen}});
}

function pictures(view) {
  const {photo, state} = view;
  const others = SAMPLES.filter((name) => name !== photo.sample);
  const take = (event) => {
    const [file] = event.target.files;
    if (!file) return;
    own = {blob: file, name: file.name};
    choose(view, {beside: ""});
  };
  const press = (name) => {
    own = null;
    choose(view, {beside: state.beside === name ? "" : name});
  };
  return h(
    "div", {class: "act"},
    h("ul", {class: "samples small", "aria-label": t("beside.samples")}, others.map((name) => h("li", {}, h(
      "button",
      {
        type: "button", "data-key": `beside-${name}`, "aria-pressed": String(!own && state.beside === name),
        "aria-label": t("beside.with", {name: t(`sample.${name}`)}), onclick: () => press(name),
      }, h("img", {src: sampleFile(name), alt: "", width: 240, height: 160}),
    )))),
    h("label", {class: "button plain"},
      h("input", {type: "file", class: "unseen", accept: "image/*", "data-key": "beside-file", onchange: take}),
      h("span", {}, t("beside.choose"))),
    own && h("span", {class: "muted"}, own.name),
    own && h("button", {
      type: "button", class: "quiet", "data-key": "beside-none",
      onclick: () => {
        own = null;
        choose(view, {beside: ""});
      },
    }, t("beside.remove", {name: own.name})),
  );
}

function networks(view) {
  const {detail, state} = view;
  const others = served().filter(({name}) => name !== detail.name);
  return others.length > 0 && h("label", {class: "control place"}, h("span", {}, t("beside.model")), h(
    "select",
    {"data-key": "beside-model", onchange: (event) => choose(view, {beside_model: event.target.value})},
    h("option", {value: ""}, t("beside.same", {model: detail.name})),
    others.map(({name, title}) => h(
      "option", {value: name, selected: name === state.beside_model}, `${name} – ${title}`,
    )),
  ));
}

/** Ask of the other what the view was asked, about the same class. */
async function fetchOther(view, cam, results) {
  const {state, detail, photo} = view;
  const signal = supersede("beside");
  const now = {
    photo, beside: own ?? state.beside, model: state.beside_model || detail.name, query: view.query.toString(),
    target: cam.target.index,
  };
  const isLast = Object.keys(now).every((name) => last[name] === now[name]);
  const problem = isLast ? null : await view.attempt(async () => {
    const second = own ?? (state.beside ? await loadSample(state.beside) : photo);
    second.bitmap ??= await createImageBitmap(second.blob).catch(() => null);
    const other = await detailOf(now.model);
    const query = questionOf(view, cam, other);
    const {result} = await ask("v1/explain", second, query, signal);
    if (!signal.aborted) last = {...now, second, other, result};
  }, {again: () => fetchOther(view, cam, results), keeps: true});
  if (signal.aborted) return;
  if (problem) own = null;
  fill(results, problem ? [] : sideBySide(view, cam, last));
  if (problem) view.look({beside: "", beside_model: ""});
}

/** The class by its label where the other network has other classes; its own layer and method where it lacks these. */
function questionOf({state, detail}, cam, other) {
  const same = detail.labels.join() === other.labels.join();
  const has = other.layers.some(({name}) => name === state.layer);
  const shown = {
    ...state,
    model: other.name,
    target: same ? String(cam.target.index) : cam.target.label,
    versus: "",
    against: same ? state.against : "",
    layer: has || state.layer === "pixels" ? state.layer : "",
    method: other.methods.includes(state.method) ? state.method : "",
    layers: "",
    sort: "",
  };
  const query = explainQuery(shown, other);
  query.set("include", "predictions,grad_cam");
  return query;
}

function sideBySide(view, cam, {second, other, result}) {
  const [twin] = result.grad_cam;
  const name = (photo) => (photo.sample ? t(`sample.${photo.sample}`) : photo.name);
  const models = other.name !== view.detail.name;
  const names = second === view.photo
    ? {one: view.detail.name, other: other.name}
    : {one: name(view.photo), other: models ? `${name(second)}, ${other.name}` : name(second)};
  const height = Math.max(cam.raw.shape[0], twin.raw.shape[0]);
  const width = Math.max(cam.raw.shape[1], twin.raw.shape[1]);
  const one = enlarged(cam.raw.values, width, height);
  const two = enlarged(twin.raw.values, width, height);
  const difference = two.map((row, y) => row.map((value, x) => value - one[y][x]));
  const where = second === view.photo ? undefined : second.bitmap;
  const list = (caption, predictions) => h("div", {}, h("h3", {}, caption), h(
    "ol", {class: "ranks"}, predictions.map(
      ({label, probability}) => h("li", {}, label, h("span", {}, percent(probability))),
    ),
  ));
  return [
    h("div", {class: "pair"}, list(names.one, view.result.predictions), list(names.other, result.predictions)),
    h("p", {class: "muted"}, t("beside.class", {
      label: cam.target.label, one: percent(cam.target.probability), other: percent(twin.target.probability),
    })),
    ...trio([
      {values: one, box: cam.box, caption: names.one, key: "beside-one"},
      {values: two, box: twin.box, caption: names.other, key: "beside-other", photo: where},
      {values: difference, box: cam.box, caption: t("compare.difference", {one: names.other, other: names.one}),
        key: "beside-difference"},
    ], reachOf([one, two, difference])),
  ];
}
