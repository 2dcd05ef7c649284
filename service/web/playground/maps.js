// Feature maps: the strongest channels of several layers, from shallow to deep.

import {marks, opener} from "./channel_card.js";
import {shape} from "./controls.js";
import {byId, fill, h} from "./dom.js";
import {number, percent, t} from "./i18n.js";
import {networkMap, sizes} from "./network_map.js";
import {ramp, tiles} from "./pictures.js";
import {enlarger} from "./stage.js";

const MOST = 16;   // layers that one request may name
const FIRST = 8;   // channels of a layer that are shown at once
const body = byId("maps").querySelector(".body");
const opened = new Set();  // layers of which all are shown

/** Draw the layers of a view and their channels. */
export async function renderMaps(view) {
  const {detail, result, state} = view;
  if (!result.feature_maps) {
    fill(body, h("p", {class: "muted"}, detail.default_layer.why));
    return;
  }
  const grids = await Promise.all(result.feature_maps.map((maps) => grid(view, maps)));
  fill(
    body, picker(view),
    h("div", {class: "stretch"}, h("p", {class: "muted"}, t("maps.stretch")), h(
      "div", {class: "legend"}, ramp(state.colormap || "viridis"),
      h("p", {class: "ends"}, h("span", {}, t("legend.least")), h("span", {}, t("legend.most"))),
    )),
    grids,
  );
}

const shownIn = ({result}) => result.feature_maps.map(({layer}) => layer);

/** Show the feature maps of these layers. */
function show({detail, update}, names) {
  const sorted = detail.layers.map(({name}) => name).filter((name) => names.includes(name));
  const usual = sorted.join() === detail.feature_layers.join();
  update({layers: usual ? "" : sorted.join(",")});
}

function picker(view) {
  const shown = shownIn(view);
  const onPick = (name, block) => {
    const rest = shown.filter((each) => !block.includes(each));
    if (rest.length === shown.length) {
      if (shown.length < MOST) show(view, [...shown, name]);
    } else if (rest.length) show(view, rest);
  };
  return [
    h("p", {class: "muted"}, t("maps.choose", {most: MOST}), " ", sizes(view.detail)),
    networkMap({key: "layers", label: t("maps.shown"), detail: view.detail, photo: view.photo, picked: shown, multiple: true, onPick}),
  ];
}

async function grid(view, maps) {
  const {layer} = maps;
  const pictures = await tiles(maps);
  const tile = (pixels, n) => {
    const channel = maps.channels[n];
    const {mean, max, zeros} = maps.stats;
    const caption = `${layer}, ${t("channel", {channel})}`;
    const legend = {
      colours: view.state.colormap || "viridis", low: t("legend.least"), high: t("legend.most"),
      note: t("legend.tile", {mean: number(mean[n]), max: number(max[n]), zeros: percent(zeros[n])}),
    };
    const key = `tile-${layer}-${channel}`;
    return h(
      "li", {},
      enlarger({pixels, squares: true, caption, legend}, {"data-key": key, ...marks(layer, channel)}),
      h("p", {class: "channel"}, opener(layer, channel, key, h("strong", {}, channel)),
        h("span", {}, t("maps.range", {max: number(max[n])}))),
    );
  };
  const all = pictures.map(tile);
  const others = shownIn(view).filter((each) => each !== layer);
  const more = h(
    "details", {open: opened.has(layer)},
    h("summary", {"data-key": `more-${layer}`}, t("maps.more", {count: all.length - FIRST})),
    h("ol", {}, all.slice(FIRST)),
  );
  more.addEventListener("toggle", () => (more.open ? opened.add(layer) : opened.delete(layer)));
  return h(
    "section", {class: "grid", "aria-label": layer},
    h("header", {}, h("h3", {}, layer), h("p", {class: "muted"}, t("maps.facts", {shape: shape(maps.shape)})), others.length > 0 && h(
      "button",
      {type: "button", class: "quiet", "data-key": `remove-${layer}`, "aria-label": t("maps.remove", {layer}),
        onclick: () => show(view, others)}, "×",
    )),
    h("ol", {}, all.slice(0, FIRST)), all.length > FIRST && more,
  );
}
