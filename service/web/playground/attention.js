// Channel attention: each gate's weights as a strip, and one channel's feature map before and after the gate.

import {ask, seen, supersede} from "./api.js";
import {shape} from "./controls.js";
import {byId, fill, h} from "./dom.js";
import {number, signed, t, tOf} from "./i18n.js";
import {tiles} from "./pictures.js";
import {enlarge} from "./stage.js";
import {channelsOf} from "./state.js";
import {ordered, strip} from "./strip.js";

const AT_ONCE = 16;         // gates that one request may name
const LEAST_REACH = 0.1;    // the strips' scale goes from 1 at least this far: less is next to nothing
const PAUSE = 120;          // milliseconds that a held arrow key rests on a channel before its maps are asked for

const body = byId("attention").querySelector(".body");

// What was asked of the current photograph, network and colours: key of a strip -> its channel, whether it was chosen,
// and the channel's maps.
let known = new Map();
let about = {};

/** Draw the strips of a view; the first maps beside them are those of the channel that each gate changed most. */
export async function renderAttention(view) {
  const {photo, detail, state, result} = view;
  if (about.photo !== photo || about.model !== detail.name || about.colormap !== state.colormap
    || about.seen !== seen(view).join()) {
    known = new Map();
    about = {photo, model: detail.name, colormap: state.colormap, seen: seen(view).join()};
  }
  if (!result.attention) {
    fill(body, h("p", {class: "muted"}, detail.default_layer.why));
    return;
  }
  const signal = supersede("gates");
  const {gates, importance} = result.attention;
  const wanted = channelsOf(state.channels);
  const own = importance && `${importance.layer}/${importance.target.index}`;  // there is none without a reference
  const counts = new Map(gates.map(({layer, weights}) => [layer, weights.length]));
  if (own) counts.set(own, importance.weights.length);
  for (const [key, channel] of wanted) if (!(channel < counts.get(key))) wanted.delete(key);
  const missing = [...counts.keys()].filter((key) => {
    const {channel, chosen} = known.get(key) ?? {};
    return channel === undefined || (wanted.has(key) ? channel !== wanted.get(key) : chosen);
  });
  const chosen = missing.filter((key) => wanted.has(key));
  await Promise.all(chosen.map(async (key) => {
    const channel = wanted.get(key);
    const strip = key === own ? {layers: importance.layer} : {gates: key};
    known.set(key, {channel, chosen: true, maps: await mapsOf(view, {...strip, channels: channel}, signal)});
  }));
  const usual = missing.filter((key) => !wanted.has(key) && key !== own);
  while (usual.length) {
    const maps = await mapsOf(view, {gates: usual.splice(0, AT_ONCE).join(","), count: 1}, signal);
    for (const [layer, sides] of Map.groupBy(maps, (side) => side.layer)) {
      known.set(layer, {channel: sides[0].channels[0], maps: sides});
    }
  }
  if (missing.includes(own) && !wanted.has(own)) {
    const channel = telling(result, importance);
    known.set(own, {channel, maps: await mapsOf(view, {layers: importance.layer, channels: channel}, signal)});
  }
  const reach = Math.max(LEAST_REACH, ...gates.flatMap(({weights}) => weights.map((weight) => Math.abs(weight - 1))));
  fill(
    body,
    (own || gates.length > 0) && sorting(view, reach),
    gates.length === 0 && h("p", {class: "muted"}, t(own ? "attention.none" : "attention.nothing")),
    gates.map((gate) => gateRow(view, gate, reach)),
    own && importanceRow(view, importance, own),
  );
}

/** Some channels' maps, each with its tile as a canvas: [{layer, side, channels, stats, pixels}]. */
async function mapsOf(view, asked, signal) {
  const {photo, detail, state} = view;
  const query = new URLSearchParams({model: detail.name, ...asked, ...Object.fromEntries(seen(view))});
  if (state.colormap) query.set("colormap", state.colormap);
  const {result} = await ask("v1/feature-maps", photo, query, signal);
  return Promise.all(result.feature_maps.map(async (maps) => ({...maps, pixels: (await tiles(maps))[0]})));
}

function sorting({state, detail, result, update}, reach) {
  const gated = detail.gates.length > 0;
  const orders = gated && result.attention.importance ? ["index", "weight", "effect"] : ["index", "weight"];
  const current = orders.includes(state.sort) ? state.sort : "index";
  return h(
    "div", {class: "sorting"}, h("span", {class: "muted", id: "sorting"}, t("sort")),
    h("div", {class: "segments", role: "group", "aria-labelledby": "sorting"}, orders.map((order) => h(
      "button",
      {
        type: "button", "data-key": `sort-${order}`, "aria-pressed": String(order === current),
        onclick: () => update({sort: order === "index" ? "" : order}),
      }, t(`sort.${order}`),
    ))),
    gated && h("span", {class: "muted"}, t("attention.scale", {reach: number(reach)})),
  );
}

/** The channel to show first: the largest weight among those that fire here, where that is known, or else of all. */
function telling({feature_maps: shown}, {layer, weights}) {
  const maps = shown?.find((each) => each.layer === layer);
  const counts = maps
    ? maps.channels.map((channel, n) => [channel, weights[channel] * maps.stats.mean[n]])
    : [...weights.entries()];
  return counts.reduce((best, each) => (each[1] > best[1] ? each : best))[0];
}

function gateRow(view, gate, reach) {
  const {weights, effects, layer} = gate;
  const scaled = view.detail.gates.find((each) => each.layer === layer);
  const {sort} = view.state;
  return row(view, {
    key: layer,
    title: layer,
    facts: t("attention.facts", {
      shape: shape(scaled.shape), min: number(Math.min(...weights)), max: number(Math.max(...weights)),
    }),
    asked: {gates: layer},
    bars: {
      weights, base: 1, reach,
      channels: ordered(weights.length, sort === "effect" ? effects : sort === "weight" ? weights : null),
      say: (channel) => [
        t("channel", {channel}), t("attention.weight", {weight: number(weights[channel])}),
        effects && t("attention.effect", {effect: signed(effects[channel])}),
      ].filter(Boolean).join(" · "),
    },
  });
}

function importanceRow(view, {layer, target, weights}, key) {
  return row(view, {
    key,
    title: layer,
    facts: tOf("attention.importance", view.detail.output.kind, {label: target.label, channels: weights.length}),
    asked: {layers: layer},
    bars: {
      weights, base: 0, reach: Math.max(...weights.map(Math.abs)) || 1,
      channels: ordered(weights.length, view.state.sort ? weights : null),
      say: (channel) => `${t("channel", {channel})} · ${t("attention.weight", {weight: signed(weights[channel])})}`,
    },
  });
}

function row(view, {key, title, facts, asked, bars}) {
  const sides = h("div", {class: "sides", "aria-live": "polite"});
  const draw = () => fill(sides, known.get(key).maps.map((maps) => side(maps, key)));
  let timer;
  const onSelect = (channel) => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      await view.attempt(async () => {
        const maps = await mapsOf(view, {...asked, channels: channel}, supersede(`channel-${key}`));
        known.set(key, {channel, chosen: true, maps});
        draw();
        view.look({channels: choices()});
      });
    }, PAUSE);
  };
  const bar = strip({
    key: `strip-${key}`,
    label: t("attention.strip", {layer: title}),
    selected: known.get(key).channel,
    onSelect,
    ...bars,
  });
  draw();
  return h(
    "article", {class: "gate"},
    h("header", {}, h("h3", {}, title), h("p", {class: "muted"}, facts)),
    h("div", {class: "bars"}, bar), sides,
  );
}

/** The channels that the visitor chose, as an address holds them. */
const choices = () =>
  [...known].filter(([, {chosen}]) => chosen).map(([key, {channel}]) => `${key}:${channel}`).join(",");

function side(maps, key) {
  const [channel] = maps.channels;
  const name = t(`side.${maps.side ?? "layer"}`);
  const caption = `${maps.layer}, ${t("channel", {channel})}, ${name}`;
  const legend = {
    colours: about.colormap || (maps.side === "difference" ? "coolwarm" : "viridis"),
    low: t("legend.least"),
    high: t("legend.most"),
    note: t("legend.channel", {mean: number(maps.stats.mean[0]), max: number(maps.stats.max[0])}),
  };
  return h("figure", {}, h(
    "button",
    {
      type: "button", class: "picture", "data-key": `side-${key}-${maps.side}`,
      "aria-label": t("enlarge", {what: caption}),
      onclick: (event) => enlarge({pixels: maps.pixels, squares: true, caption, legend, from: event.currentTarget}),
    }, maps.pixels,
  ), h("figcaption", {}, name));
}
