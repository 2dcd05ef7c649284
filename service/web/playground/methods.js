// Several opinions: the map by every method that takes one gradient at most, at the same place, each on its own scale.

import {ask, sameTarget, seen, supersede} from "./api.js";
import {methodsAt} from "./controls.js";
import {byId, fill, h} from "./dom.js";
import {number, t, tElse} from "./i18n.js";
import {overlayColours, smoothLevels, tinted} from "./pictures.js";
import {overBox} from "./stage.js";

/** A method's name and what it computes, in the visitor's language. */
export const wordsOf = ({name, title, formula}) => [
  tElse(`about.${name}.title`, title), tElse(`about.${name}.formula`, formula),
];

const CHEAP = ["activation", "gradient"];
const SIDE = 160;

const panel = byId("methods");
const body = panel.querySelector(".body");

let last = {};  // the last answer, and the question that it is an answer to

/** Where other methods answer: at the map's layer, or at the default one if the map is of several. */
const placeOf = ({fused, layer}, {detail}) => (fused ? detail.default_layer.name : layer);

/** Draw a view's map by other methods, or the offer to. */
export function renderMethods(view) {
  const cam = view.result.grad_cam?.[0];
  const cheap = cam ? methodsAt(placeOf(cam, view), view.detail).filter(({needs}) => CHEAP.includes(needs)) : [];
  panel.hidden = cheap.length < 2;
  supersede("methods");
  if (panel.hidden) return;
  if (view.state.several) draw(view, cam, cheap);
  else offer(view, cam, cheap);
}

function offer(view, cam, cheap) {
  const press = () => {
    view.look({several: "true"});
    draw(view, cam, cheap);
  };
  fill(body, h("p", {class: "act"},
    h("button", {type: "button", class: "button plain", "data-key": "several", onclick: press}, t("methods.ask")),
    h("span", {class: "muted"}, t("methods.cost", {count: cheap.length}))));
}

async function draw(view, cam, cheap) {
  const signal = supersede("methods");
  const query = new URLSearchParams({
    model: view.detail.name, layer: placeOf(cam, view), max_side: SIDE, method: cheap.map(({name}) => name).join(","),
  });
  for (const [name, value] of [...seen(view), ...sameTarget(cam, view.state)]) query.set(name, value);
  if (view.state.signed) query.set("signed", view.state.signed);
  const asked = query.toString();
  const isLast = last.photo === view.photo && last.reference === view.reference && last.asked === asked;
  const problem = isLast ? null : await view.attempt(async () => {
    const {result} = await ask("v1/grad-cam", view.photo, query, signal, view.reference);
    if (!signal.aborted) last = {photo: view.photo, reference: view.reference, asked, cams: result.grad_cam};
  }, {again: () => draw(view, cam, cheap), keeps: true});
  if (signal.aborted) return;
  if (problem) {
    view.look({several: ""});
    offer(view, cam, cheap);
    return;
  }
  const colours = overlayColours(view.state);
  const isSigned = view.state.signed === "true";
  fill(body, h("ul", {class: "opinions"}, last.cams.map(({method, raw, mask: {width, height}}) => {
    const shown = overBox(tinted(smoothLevels(raw.values, isSigned, width, height), colours, isSigned), 0.7);
    shown.setAttribute("aria-hidden", "true");
    return h("li", {}, h(
      "button",
      {
        type: "button", class: "picture", "data-key": `method-${method}`, "aria-pressed": String(!cam.fused && method === cam.method),
        onclick: () => view.update({method: method === view.detail.methods[0] ? "" : method}),
      },
      shown, h("span", {class: "name"}, method),
      h("span", {class: "muted"}, t("compare.range", {min: number(raw.min), max: number(raw.max)})),
    ));
  })));
}
