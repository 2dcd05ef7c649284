// What is asked: network, layer, method, sign, colours, how many classes.

import {byId, fill, h} from "./dom.js";
import {t} from "./i18n.js";
import {colourMaps} from "./pictures.js";

const TOP = ["3", "5", "10", "20"];

export const shape = ([channels, height, width]) => `${channels} × ${height} × ${width}`;

/** Options of a network's layers, from shallow to deep, in groups of one resolution; `skip` are left out. */
export function layerOptions(layers, chosen, skip = []) {
  const groups = [];
  for (const layer of layers) {
    const size = `${layer.shape[1]} × ${layer.shape[2]}`;
    if (groups.at(-1)?.size !== size) groups.push({size, options: []});
    if (skip.includes(layer.name)) continue;
    groups.at(-1).options.push(
      h("option", {value: layer.name, selected: layer.name === chosen}, `${layer.name}  (${shape(layer.shape)})`),
    );
  }
  return groups.filter(({options}) => options.length).map(({size, options}) => h("optgroup", {label: size}, options));
}

const choice = (values, chosen, label = (value) => value) =>
  values.map((value) => h("option", {value, selected: value === chosen}, label(value)));

/** Draw the controls of a view. */
export function renderControls({state, detail, models, update}) {
  const row = (name, options) => h(
    "label", {class: `control control-${name}`}, h("span", {}, t(`control.${name}`)),
    h("select", {"data-key": name, onchange: (event) => update({[name]: event.target.value})}, options),
  );
  const layer = state.layer || detail.default_layer.name;
  const top = state.top_k && !TOP.includes(state.top_k) ? [...TOP, state.top_k] : TOP;
  // what a shared address asks for is shown, also where there is no such thing: the service's answer says so
  const known = (names, name) => (name && !names.includes(name) ? [...names, name] : names);
  fill(
    byId("controls"),
    row("model", choice(known(models.map(({name}) => name), state.model), state.model || detail.name)),
    row("layer", [
      ...layerOptions(detail.layers, layer),
      ...choice(known(detail.layers.map(({name}) => name), layer).slice(detail.layers.length), layer),
    ]),
    row("method", choice(known(detail.methods, state.method), state.method || detail.methods[0])),
    row("colormap", choice(
      known(["", ...colourMaps()], state.colormap), state.colormap, (name) => name || t("control.automatic"),
    )),
    row("top_k", choice(top, state.top_k || "5")),
    h(
      "label", {class: "control check"},
      h("input", {
        type: "checkbox", "data-key": "signed", checked: state.signed === "true",
        onchange: (event) => update({signed: event.target.checked ? "true" : ""}),
      }),
      h("span", {}, t("control.signed")),
    ),
  );
}
