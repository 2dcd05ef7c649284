// Channel attention: each gate's weights as a strip, and one channel's feature map before and after the gate.

import {STRETCH, ask, seen, supersede} from "./api.js";
import {marks} from "./channel_card.js";
import {shape} from "./controls.js";
import {byId, fill, h, segments} from "./dom.js";
import {number, percent, signed, t, tOf} from "./i18n.js";
import {tiles} from "./pictures.js";
import {enlarger} from "./stage.js";
import {channelsOf} from "./state.js";
import {ordered, strip} from "./strip.js";

const LEAST_REACH = 0.1;    // the strips' scale goes from 1 at least this far: less is next to nothing
const STRONGEST = 3;        // channels that are named
const PAUSE = 120;          // milliseconds that a held arrow key rests on a channel before its maps are asked for

const body = byId("attention").querySelector(".body");

// What was asked of the current photograph, network and colours: key of a strip -> its channel, whether it was chosen,
// and the channel's maps.
let known = new Map();
let about = {};
const folded = new Map();  // key of a strip -> whether the visitor folded it, or opened it

/** Draw the strips of a view: the gate that changed its channels most first and open, the others folded. */
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
  const reach = Math.max(LEAST_REACH, ...gates.flatMap(({weights}) => weights.map((weight) => Math.abs(weight - 1))));
  const most = Math.max(...gates.map(changeOf));
  const sorted = [...gates].sort((one, other) => changeOf(other) - changeOf(one));
  const entries = sorted.map((gate) => ofGate(view, gate, reach, most));
  if (importance) entries.push(ofImportance(view, importance));  // there is none without a reference
  const wanted = channelsOf(state.channels);
  entries.forEach((entry, n) => {
    if (wanted.get(entry.key) < entry.bars.weights.length) entry.wanted = wanted.get(entry.key);
    entry.first = n === 0 || entry.wanted !== undefined;
    entry.open = folded.has(entry.key) ? !folded.get(entry.key) : entry.first;
  });
  const asked = entries.filter((entry) => entry.open || entry.wanted !== undefined);
  await Promise.all(asked.map((entry) => load(view, entry, signal)));
  fill(
    body,
    gates.length > 0 && h("p", {class: "muted"}, t("attention.order")),
    entries.length > 0 && sorting(view),
    gates.length === 0 && h("p", {class: "muted"}, t(importance ? "attention.none" : "attention.nothing")),
    h("div", {}, entries.map((entry) => strips(view, entry))),
  );
  if (detail.atlas?.gates.length) await flag(view, signal);
}

/** Say of which gates the weights are unlike those of the atlas' pictures, of which it knows the centre. */
async function flag(view, signal) {
  const {detail, photo} = view;
  about.places ??= ask("v1/attention", photo, new URLSearchParams({
    model: detail.name, atlas: true, effects: false,
  })).then(({result}) => result.attention.gates.filter((gate) => gate.atlas?.unusual));
  const unusual = await about.places.catch((error) => {
    about.places = undefined;
    throw error;
  });
  if (signal.aborted) return;
  for (const {layer, atlas} of unusual) {
    const gate = [...body.querySelectorAll(".gate")].find((each) => each.dataset.layer === layer);
    gate?.querySelector(".bars").before(h("p", {class: "notice"}, t("attention.unusual", {
      share: percent(atlas.outside), pictures: detail.atlas.pictures,
    })));
    gate?.querySelector("summary > .muted").append(h("span", {class: "unusual"}, ` · ${t("attention.unusual.short")}`));
  }
}

/** How far a gate moved its channels, on average. */
const changeOf = ({weights}) => weights.reduce((sum, weight) => sum + Math.abs(weight - 1), 0) / weights.length;

/** Ask for the maps of a strip's channel: the wanted one, or the one that tells most. */
async function load(view, {key, asked, wanted, telling}, signal) {
  const {channel, chosen} = known.get(key) ?? {};
  if (wanted === undefined ? channel !== undefined && !chosen : channel === wanted) return;
  const which = wanted ?? telling;
  const maps = await mapsOf(view, {...asked, ...(which === undefined ? {count: 1} : {channels: which})}, signal);
  known.set(key, {channel: maps[0].channels[0], chosen: wanted !== undefined, maps});
}

/** Some channels' maps, each with its tile as a canvas: [{layer, side, channels, stats, pixels}]. */
async function mapsOf(view, asked, signal) {
  const {photo, detail, state} = view;
  const query = new URLSearchParams({model: detail.name, ...asked, ...Object.fromEntries(seen(view)), scale: STRETCH});
  if (state.colormap) query.set("colormap", state.colormap);
  const {result} = await ask("v1/feature-maps", photo, query, signal);
  return Promise.all(result.feature_maps.map(async (maps) => ({...maps, pixels: (await tiles(maps))[0]})));
}

function sorting({state, detail, result, update}) {
  const orders = detail.gates.length && result.attention.importance ? ["index", "weight", "effect"] : ["index", "weight"];
  const current = orders.includes(state.sort) ? state.sort : "index";
  return h(
    "div", {class: "sorting"}, h("span", {class: "muted", id: "sorting"}, t("sort")),
    segments({"aria-labelledby": "sorting"}, orders.map((order) => [order, `sort-${order}`, t(`sort.${order}`)]), current,
      (order) => update({sort: order === "index" ? "" : order})),
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

/** The channels whose weights are furthest from `base`, the furthest first. */
const furthest = (weights, base) => ordered(weights.length, weights.map((weight) => Math.abs(weight - base))).slice(0, STRONGEST);

function ofGate(view, gate, reach, most) {
  const {weights, effects, layer} = gate;
  const {sort} = view.state;
  const times = (weight) => t("attention.times", {weight: number(weight)});
  const change = changeOf(gate);
  return {
    key: layer,
    title: layer,
    facts: t("attention.facts", {channels: weights.length, change: percent(change)}),
    note: (maps) => t("attention.gate", {shape: shape(maps[0].shape), reach: number(reach)}),
    share: change / most,
    asked: {gates: layer},
    named: furthest(weights, 1).map((channel) => [channel, times(weights[channel])]),
    bars: {
      weights, base: 1, reach, ends: [times(1 + reach), times(1), times(1 - reach)],
      channels: ordered(weights.length, sort === "effect" ? effects : sort === "weight" ? weights : null),
      say: (channel) => [
        t("channel", {channel}), t("attention.weight", {weight: number(weights[channel])}),
        effects && t("attention.effect", {effect: signed(effects[channel])}),
      ].filter(Boolean).join(" · "),
    },
  };
}

function ofImportance(view, importance) {
  const {layer, target, weights} = importance;
  const reach = Math.max(...weights.map(Math.abs)) || 1;
  const told = (weight) => signed(weight);
  return {
    key: `${layer}/${target.index}`,
    title: layer,
    facts: tOf("attention.importance", view.detail.output.kind, {label: target.label, channels: weights.length}),
    note: () => t("attention.weights", {reach: number(reach)}),
    asked: {layers: layer},
    of: "weights",
    telling: telling(view.result, importance),
    named: furthest(weights, 0).map((channel) => [channel, told(weights[channel])]),
    bars: {
      weights, base: 0, reach, ends: [told(reach), "0", told(-reach)],
      channels: ordered(weights.length, view.state.sort ? weights : null),
      say: (channel) => `${t("channel", {channel})} · ${t("attention.weight", {weight: signed(weights[channel])})}`,
    },
  };
}

/** A line about a gate, which opens to its strip, the strongest channels and one channel's maps. */
function strips(view, entry) {
  const {key, title, facts, of, share, named} = entry;
  const content = h("div", {class: "bars"});
  const bar = share !== undefined && h("span", {class: "change", "aria-hidden": "true"}, h("span", {}));
  if (bar) bar.firstChild.style.setProperty("inline-size", `${100 * share}%`);
  const node = h(
    "details", {class: "gate", open: entry.open, "data-layer": share === undefined ? null : title},
    h("summary", {"data-key": `fold-${key}`}, h("h3", {}, title), bar, h("span", {class: "muted"}, facts, h(
      "span", {class: "most"}, ` · ${tOf("attention.most", of, {channels: named.slice(0, 2).map((each) => each.join(" ").replaceAll(" ", "\u00a0")).join(", ")})}`,
    ))),
    content,
  );
  const show = () => view.attempt(async () => {
    await load(view, entry, supersede(`channel-${key}`));
    fill(content, opened(view, entry));
  });
  node.addEventListener("toggle", () => {
    if (node.open === entry.first) folded.delete(key);
    else folded.set(key, !node.open);
    if (node.open && !content.firstChild) show();
  });
  if (entry.open) fill(content, opened(view, entry));
  return node;
}

/** What is in an open gate. */
function opened(view, {key, title, note, of, asked, named, telling, bars}) {
  const sides = h("div", {class: "sides", "aria-live": "polite"});
  const draw = () => {
    const {channel, chosen, maps} = known.get(key);
    const why = chosen || telling !== undefined ? t("channel", {channel}) : t("attention.telling", {channel});
    fill(sides, h("p", {class: "muted"}, why), maps.map((side) => figure(side, key)));
  };
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
  const {nodes, choose} = strip({
    key: `strip-${key}`,
    layer: title,
    label: t("attention.strip", {layer: title}),
    selected: known.get(key).channel,
    onSelect,
    ...bars,
  });
  draw();
  return [
    h("p", {class: "muted"}, note(known.get(key).maps)),
    h("div", {class: "named"}, h("span", {class: "muted"}, tOf("attention.named", of)), named.map(([channel, said]) => h(
      "button", {
        type: "button", class: "quiet", "data-key": `named-${key}-${channel}`, onclick: () => choose(channel),
        ...marks(title, channel),
      }, h("strong", {}, t("channel", {channel})), ` ${said}`,
    ))),
    ...nodes, sides,
  ];
}

/** The channels that the visitor chose, as an address holds them. */
const choices = () =>
  [...known].filter(([, {chosen}]) => chosen).map(([key, {channel}]) => `${key}:${channel}`).join(",");

function figure(maps, key) {
  const [channel] = maps.channels;
  const name = t(`side.${maps.side ?? "layer"}`);
  const caption = `${maps.layer}, ${t("channel", {channel})}, ${name}`;
  const legend = {
    colours: about.colormap || (maps.side === "difference" ? "coolwarm" : "viridis"),
    low: t("legend.least"),
    high: t("legend.most"),
    note: t("legend.channel", {mean: number(maps.stats.mean[0]), max: number(maps.stats.max[0])}),
  };
  const shown = {pixels: maps.pixels, squares: true, caption, legend};
  return h("figure", {}, enlarger(shown, {"data-key": `side-${key}-${maps.side}`}), h("figcaption", {}, name));
}
