// Another photograph, or another network, beside the view: predictions, and maps of one class on one scale.

import {ask, explainQuery, supersede} from "./api.js";
import {detailOf, served} from "./catalogue.js";
import {byId, fill, h} from "./dom.js";
import {t, tOf} from "./i18n.js";
import {loadSample, renderPicker} from "./intake.js";
import {enlarged} from "./pictures.js";
import {kindOf, nameOf, score} from "./scores.js";
import {seesWhole} from "./state.js";
import {reachOf, stretched, trio} from "./trio.js";

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
  const take = (file, beside) => {
    own = file;
    choose(view, {beside});
  };
  return renderPicker({
    key: "beside", label: t("beside.samples"), not: photo.sample, own,
    chosen: state.beside, name: (name) => t("beside.with", {name}),
    onSample: (name) => take(null, state.beside === name ? "" : name),
    onFile: (file) => take({blob: file, name: file.name}, ""),
    onRemove: () => take(null, ""),
  });
}

function networks(view) {
  const {detail, state} = view;
  // whose answers have no class, quantity or likeness in common can't be set side by side
  const others = served().filter(({name, output}) => name !== detail.name && output.kind === detail.output.kind);
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
    target: cam.target.index, reference: view.reference,
  };
  const isLast = Object.keys(now).every((name) => last[name] === now[name]);
  const problem = isLast ? null : await view.attempt(async () => {
    const second = own ?? (state.beside ? await loadSample(state.beside) : photo);
    second.bitmap ??= await createImageBitmap(second.blob).catch(() => null);
    const other = await detailOf(now.model);
    const query = questionOf(view, cam, other, second);
    const {result} = await ask("v1/explain", second, query, signal, view.reference);
    if (!signal.aborted) last = {...now, second, other, result};
  }, {again: () => fetchOther(view, cam, results), keeps: true});
  if (signal.aborted) return;
  if (problem) own = null;
  fill(results, problem ? [] : sideBySide(view, cam, last));
  if (problem) view.look({beside: "", beside_model: ""});
}

/** The class by its label where the other network has other classes; its own layer and method where it lacks these. */
function questionOf({state, detail}, cam, other, photo) {
  const same = detail.labels.join() === other.labels.join();
  const has = other.layers.some(({name}) => name === state.layer);
  const shown = {
    ...state,
    model: other.name,
    target: kindOf(cam.target) === "embedding" ? "" : same ? String(cam.target.index) : cam.target.label,
    region: /^[\d.]+,/.test(state.region) ? "" : state.region,  // a place in one picture is none in another
    versus: "",
    against: same ? state.against : "",
    layer: has || state.layer === "pixels" ? state.layer : "",
    method: other.methods.includes(state.method) ? state.method : "",
    view: seesWhole(other) || state.view !== "whole" ? state.view : "",
    detail: seesWhole(other) ? state.detail : "",
    layers: "",
    sort: "",
  };
  const query = explainQuery(shown, other, true);
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
    "ol", {class: "ranks"}, predictions.map((each) => h("li", {}, each.label, h("span", {}, score(each)))),
  ));
  return [
    result.predictions.length > 0 && h("div", {class: "pair"}, list(names.one, view.result.predictions), list(names.other, result.predictions)),
    ...(cam.fused || twin.fused ? [stretched()] : [
      h("p", {class: "muted"}, tOf("beside.class", kindOf(cam.target), {
        label: nameOf(cam.target), one: score(cam.target), other: score(twin.target),
      })),
      ...trio([
        {values: one, box: cam.box, caption: names.one, key: "beside-one"},
        {values: two, box: twin.box, caption: names.other, key: "beside-other", photo: where},
        {values: difference, box: cam.box, caption: t("compare.difference", {one: names.other, other: names.one}),
          key: "beside-difference"},
      ], reachOf([one, two, difference]), cam.direction ?? kindOf(cam.target)),
    ]),
  ];
}
