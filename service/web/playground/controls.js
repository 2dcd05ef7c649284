// What is asked: network, layer, method, sign, colours, how many classes.

import {byId, fill, h, segments} from "./dom.js";
import {t, tOf} from "./i18n.js";
import {wordsOf} from "./methods.js";
import {colourMaps, overlayColours} from "./pictures.js";
import {seesWhole, viewOf} from "./state.js";

const TOP = ["3", "5", "10", "20"];
const DETAIL = ["160", "224", "256", "320", "448", "640"];  // pixels of the short side

export const shape = ([channels, height, width]) => `${channels} × ${height} × ${width}`;

const choice = (values, chosen, label = (value) => value) =>
  values.map((value) => h("option", {value, selected: value === chosen}, label(value)));

export const PIXELS = "pixels";

/** The methods that are offered at a layer, or at the pixels. Each has its own place where none was chosen. */
export function methodsAt(layer, {method_details: all}) {
  return layer ? all.filter(({at}) => at.includes(layer === PIXELS ? PIXELS : "layers")) : all;
}

const digits = (value) => String(Number(value.toPrecision(3)));

/** What a method costs on this server, where that was measured. */
const price = ({cost_here: here}) => (here ? t("method.cost", {times: digits(here.times)}) : "");

/** What a method is, needs and costs, and on which machine that was measured. */
function about(method) {
  const {needs, paper, cost_here: here, cost, default_layer: layer} = method;
  const [title, formula] = wordsOf(method);
  const measured = here
    ? t("method.measured.here", {times: digits(here.times), ms: digits(here.ms)})
    : cost && t("method.measured", {...cost, times: digits(cost.default_layer), layer});
  return h(
    "p", {class: "muted about-method", id: "about-method"}, h("strong", {}, title), ` – ${formula} (${paper}). `,
    t(`needs.${needs.replace(" ", "_")}`), " ", measured || t("method.unmeasured"),
  );
}

/** How the network sees the photograph, and in how much detail where it can be chosen. */
function seeing({state, detail, update}) {
  const chosen = viewOf(state, detail);
  const views = seesWhole(detail) ? ["whole", "centre", "squash"] : ["centre", "squash"];
  const usual = String(detail.whole.detail);
  const press = (view) => update({view: view === viewOf({view: ""}, detail) ? "" : view, detail: ""});
  const sizes = [...new Set([...DETAIL, usual, state.detail || usual])].sort((one, other) => one - other);
  return h(
    "div", {class: "control seeing", role: "group", "aria-labelledby": "seeing"},
    h("span", {id: "seeing"}, t("control.view")),
    h("div", {class: "act"}, segments(
      {role: null}, views.map((view) => [view, `view-${view}`, t(`seen.${view}`)]), chosen, press,
    ), chosen === "whole" && h(
      "label", {class: "control detail"}, h("span", {}, t("control.detail")), h(
        "select",
        {"data-key": "detail",
          onchange: ({target: {value}}) => update({detail: value === usual ? "" : value, view: state.view})},
        choice(sizes, state.detail || usual),
      ),
    )),
    h("p", {class: "muted"}, t(`seen.${chosen}.why`)),
  );
}

/** Draw the controls of a view. */
export function renderControls({state, detail, models, update}) {
  const row = (name, options, onchange = (event) => update({[name]: event.target.value})) => h(
    "label", {class: `control control-${name}`}, h("span", {}, tOf(`control.${name}`, detail.output.kind)),
    h("select", {"data-key": name, onchange}, options),
  );
  const chosen = ({at}) => !at.length;  // a method that chooses its layers
  const methods = [...new Set([...methodsAt(state.layer, detail), ...detail.method_details.filter(chosen)])];
  const method = detail.method_details.find(({name}) => name === (state.method || detail.methods[0]));
  const top = state.top_k && !TOP.includes(state.top_k) ? [...TOP, state.top_k] : TOP;
  // what a shared address asks for is shown, also where there is no such thing: the service's answer says so
  const known = (names, name) => (name && !names.includes(name) ? [...names, name] : names);
  fill(
    byId("controls"),
    row("model", choice(known(models.map(({name}) => name), state.model), state.model || detail.name)),
    seeing({state, detail, update}),
    row("method", choice(
      known(methods.map(({name}) => name), state.method), method?.name,
      (name) => [name, price(methods.find((each) => each.name === name) ?? {})].filter(Boolean).join(" – "),
    ), ({target: {value}}) => update({
      method: value, ...(methods.some((each) => each.name === value && chosen(each)) ? {layer: ""} : {}),
    })),
    row("colormap", choice(
      known(["", ...colourMaps()], state.colormap), state.colormap, (name) => name || t("control.automatic", {name: overlayColours({...state, colormap: ""})}),
    )),
    detail.output.kind !== "embedding" && row("top_k", choice(top, state.top_k || "5")),
    method && about(method),
    h(
      "label", {class: "control check"},
      h("input", {
        type: "checkbox", "data-key": "signed", checked: state.signed === "true",
        onchange: (event) => update({signed: event.target.checked ? "true" : ""}),
      }),
      h("span", {}, tOf("control.signed", detail.output.kind)),
    ),
  );
}
