// Feature maps: the strongest channels of several layers, from shallow to deep.

import {layerOptions, shape} from "./controls.js";
import {byId, fill, h} from "./dom.js";
import {number, percent, t} from "./i18n.js";
import {tiles} from "./pictures.js";
import {enlarge} from "./stage.js";

const MOST = 16;  // layers that one request may name
const body = byId("maps").querySelector(".body");

/** Draw the layers of a view and their channels. */
export async function renderMaps(view) {
  const {detail, result} = view;
  if (!result.feature_maps) {
    fill(body, h("p", {class: "muted"}, detail.default_layer.why));
    return;
  }
  const grids = await Promise.all(result.feature_maps.map((maps) => grid(view, maps)));
  fill(body, picker(view), h("div", {class: "grids"}, grids));
}

function picker({detail, result, update}) {
  const shown = result.feature_maps.map(({layer}) => layer);
  const order = detail.layers.map(({name}) => name);
  const show = (names) => {
    const sorted = order.filter((name) => names.includes(name));
    const usual = sorted.join() === detail.feature_layers.join();
    update({layers: usual ? "" : sorted.join(",")});
  };
  return h(
    "div", {class: "picker"},
    h("ul", {class: "chips", "aria-label": t("maps.shown")}, shown.map((name) => h(
      "li", {}, h("code", {}, name),
      shown.length > 1 && h(
        "button",
        {type: "button", "data-key": `remove-${name}`, "aria-label": t("maps.remove", {layer: name}),
          onclick: () => show(shown.filter((each) => each !== name))}, "×",
      ),
    ))),
    h("label", {class: "control"}, h("span", {class: "unseen"}, t("maps.add")), h(
      "select",
      {
        "data-key": "add-layer", disabled: shown.length >= MOST,
        onchange: (event) => show([...shown, event.target.value]),
      },
      h("option", {value: "", selected: true}, t("maps.add")), layerOptions(detail.layers, "", shown),
    )),
  );
}

async function grid({state}, maps) {
  const pictures = await tiles(maps);
  const tile = (pixels, n) => {
    const channel = maps.channels[n];
    const {mean, max, zeros} = maps.stats;
    const caption = `${maps.layer}, ${t("channel", {channel})}`;
    const legend = {
      colours: state.colormap || "viridis", low: t("legend.least"), high: t("legend.most"),
      note: t("legend.tile", {mean: number(mean[n]), max: number(max[n]), zeros: percent(zeros[n])}),
    };
    return h("li", {}, h(
      "button",
      {
        type: "button", class: "picture", "data-key": `tile-${maps.layer}-${channel}`,
        "aria-label": t("enlarge", {what: caption}),
        onclick: (event) => enlarge({pixels, squares: true, caption, legend, from: event.currentTarget}),
      }, pixels, h("span", {class: "channel", "aria-hidden": "true"}, channel),
    ));
  };
  return h(
    "section", {class: "grid", "aria-label": maps.layer},
    h("header", {}, h("h3", {}, maps.layer), h("p", {class: "muted"}, shape(maps.shape))),
    h("ol", {}, pictures.map(tile)),
  );
}
