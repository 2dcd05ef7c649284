// The picture that an embedding is compared with: it is asked for before anything can be explained.

import {ask, supersede} from "./api.js";
import {fill, h} from "./dom.js";
import {t} from "./i18n.js";
import {SAMPLES, loadSample, renderPicker} from "./intake.js";
import {score} from "./scores.js";
import {cover} from "./stage.js";
import {reachOf, stretched, trio} from "./trio.js";

let own = null;  // a picture of the visitor's, which no address holds
const shipped = new Map();  // those that were loaded, by name
let last = {};              // the last comparison, and all that it depended on

/** The picture that a state compares with, or null. */
export async function referenceOf(state, detail) {
  if (detail.output.kind !== "embedding") return null;
  const {reference: name} = state;
  if (!own && SAMPLES.includes(name) && !shipped.has(name)) shipped.set(name, await loadSample(name));
  const found = own ?? shipped.get(name) ?? null;
  if (found) found.bitmap ??= await createImageBitmap(found.blob).catch(() => null);
  return found;
}

/** Compare with what a view compared with, after another picture was refused. */
export function keepReference(reference) {
  own = reference && !reference.sample ? reference : null;
}

/** Draw the choice of the other picture, and how alike the two are. */
export function renderReference(body, {photo, reference, result, state, update}) {
  const choose = (chosen, file = null) => {
    own = file;
    update({reference: chosen});
  };
  const target = result.grad_cam?.[0].target;
  const shown = reference?.bitmap && h("canvas", {width: 240, height: 160, "aria-hidden": "true"});
  if (shown) cover(shown, reference.bitmap);
  fill(
    body,
    h("p", {}, t(target ? "reference.read" : "reference.wanted")),
    target && h("div", {class: "alike"}, shown, h("p", {class: "advantage"}, score(target)),
      h("p", {class: "muted"}, t("reference.scale"))),
    renderPicker({
      key: "reference", label: t("reference.samples"), not: photo.sample, own,
      chosen: state.reference, name: (name) => t("reference.with", {name}),
      onSample: (name) => choose(state.reference === name && !own ? "" : name),
      onFile: (file) => choose("", {blob: file, name: file.name}),
      onRemove: () => choose(""),
    }),
  );
}

/** Draw what both pictures have of their likeness, each map over its own picture. */
export async function renderAlike(panel, view) {
  const {detail, photo, query, reference, result} = view;
  const signal = supersede("alike");
  panel.hidden = !result.grad_cam || !reference;
  if (panel.hidden) return;
  const body = panel.querySelector(".body");
  const [cam] = result.grad_cam;
  if (cam.fused) {
    fill(body, stretched());
    return;
  }
  const asked = new URLSearchParams({max_side: 8, method: cam.method});
  for (const name of ["model", "view", "layer"]) if (query.has(name)) asked.set(name, query.get(name));
  if (asked.get("view") === "whole") asked.set("view", "squash");  // two whole pictures have one shape only by chance
  const now = {photo, reference, asked: asked.toString()};
  if (Object.keys(now).some((name) => last[name] !== now[name])) {
    const {compare} = await ask("v1/compare", [photo, reference], asked, signal);
    if (signal.aborted) return;
    last = {...now, compare};
  }
  const {first, second, maps} = last.compare;
  const names = {one: t("reference.one"), other: t("reference.other")};
  const values = [maps.first, maps.second, maps.difference].map(({raw}) => raw.values);
  fill(
    body,
    ...trio([
      {values: values[0], box: first.box, caption: names.one, key: "compare-one"},
      {values: values[1], box: second.box, caption: names.other, key: "compare-other", photo: reference.bitmap},
      {values: values[2], box: first.box, caption: t("compare.difference", {one: names.other, other: names.one}),
        key: "compare-difference"},
    ], reachOf(values), "embedding"),
    h("p", {class: "muted"}, t("reference.maps", {model: detail.name})),
  );
}
