// What if channels weighed more, less, or nothing: sliders for the strongest, and what the network says then.

import {ask, sameTarget, seen, supersede} from "./api.js";
import {opener} from "./channel_card.js";
import {byId, fill, h} from "./dom.js";
import {number, signed, t, tOf} from "./i18n.js";
import {change as changeOf, kindOf, nameOf, score} from "./scores.js";
import {factorsOf} from "./state.js";
import {trio} from "./trio.js";

const STRONGEST = 6;  // channels with a slider of their own
const MOST = 3;       // the sliders' end
const PAUSE = 150;    // milliseconds that a slider rests before its edit is asked about

const panel = byId("what-if");
const body = panel.querySelector(".body");

// About whose channels it is, which have a slider, what they are multiplied by where that is not 1, what was measured.
let about = {};
let channels = [];
let factors = new Map();
let ranking = null;
let timer;

/** Draw the sliders of a view's layer, and what its edit does, if the address holds one. */
export function renderWhatIf(view) {
  const importance = view.result.attention?.importance;
  panel.hidden = !importance;
  clearTimeout(timer);
  supersede("what-if");
  if (!importance) return;
  const {photo, detail, state} = view;
  const place = detail.gates.some(({layer}) => layer === state.gate) ? {gate: state.gate} : {layer: importance.layer};
  const now = {photo, seen: seen(view).join(), reference: view.reference, region: state.region, model: detail.name, target: importance.target.index, place: place.gate ?? place.layer};
  if (Object.keys(now).some((name) => about[name] !== now[name])) {
    about = now;
    channels = strongest(view, place.gate);
    ranking = null;
  }
  factors = factorsOf(state.scale);
  channels = [...new Set([...channels, ...factors.keys()])];
  const frame = {
    rows: h("ul", {class: "channels"}),
    order: h("p", {class: "muted"}),
    agreement: h("p", {class: "muted"}),
    results: h("div", {class: "results", "aria-live": "polite"}),
  };
  const scene = {view, place, frame, importance};
  fill(
    body,
    places(view, place, importance),
    h("p", {class: "act"}, measure(scene), reset(scene),
      h("span", {class: "muted", id: "measure-cost"}, t("what_if.measure.cost"))),
    frame.order, frame.rows, adding(scene), frame.agreement, frame.results,
  );
  drawRows(scene);
  if (factors.size || (state.rank && !ranking)) change(scene, {keeps: true});
}

/** The channels that stand out as far as the view tells: they fire and weigh much, or are far from a factor of 1. */
function strongest({result}, gateName) {
  const {gates, importance} = result.attention;
  const gate = gates.find(({layer}) => layer === gateName);
  const shown = result.feature_maps?.find(({layer}) => layer === importance.layer);
  let sizes;
  if (gate) sizes = [...(gate.effects ?? gate.weights.map((weight) => weight - 1)).entries()];
  else if (shown) sizes = shown.channels.map((each, n) => [each, importance.weights[each] * shown.stats.mean[n]]);
  else sizes = [...importance.weights.entries()];
  sizes.sort(([, one], [, other]) => Math.abs(other) - Math.abs(one));
  return sizes.slice(0, STRONGEST).map(([channel]) => channel);
}

function places(view, {gate}, {layer}) {
  const {detail, state} = view;
  const choose = (event) => {
    const chosen = {gate: event.target.value, scale: "", rank: ""};
    view.look(chosen);
    renderWhatIf({...view, state: {...state, ...chosen}});
  };
  if (!detail.gates.length) return h("p", {class: "muted"}, t("what_if.layer", {layer}));
  return h("label", {class: "control place"}, h("span", {}, t("what_if.place")), h(
    "select",
    {"data-key": "place", onchange: choose},
    h("option", {value: "", selected: !gate}, t("what_if.layer", {layer})),
    detail.gates.map((each) => h(
      "option", {value: each.layer, selected: each.layer === gate}, t("what_if.gate", {gate: each.layer}),
    )),
  ));
}

const measure = (scene) => h("button", {
  type: "button", class: "button plain", "data-key": "measure", "aria-describedby": "measure-cost",
  onclick: () => change(scene, {rank: true}),
}, t("what_if.measure"));

const reset = (scene) => h("button", {
  type: "button", class: "button plain", "data-key": "reset",
  onclick: () => {
    factors.clear();
    drawRows(scene);
    change(scene);
  },
}, t("what_if.reset"));

function adding(scene) {
  const {view: {detail}, place} = scene;
  const [count] = place.gate
    ? detail.gates.find(({layer}) => layer === place.gate).shape
    : detail.layers.find(({name}) => name === place.layer).shape;
  return h("label", {class: "control place"}, h("span", {}, t("what_if.add")), h("input", {
    type: "number", min: 0, max: count - 1, placeholder: t("what_if.range", {last: count - 1}),
    "data-key": "add-channel",
    onchange: (event) => {
      if (!event.target.value || !event.target.validity.valid) return;
      channels = [...new Set([...channels, Number(event.target.value)])];
      event.target.value = "";
      drawRows(scene);
    },
  }));
}

/** The sliders; they stay as they are while answers come. */
function drawRows(scene) {
  const {frame, importance, place, view} = scene;
  const gate = view.result.attention.gates.find(({layer}) => layer === place.gate);
  const reach = Math.max(...channels.map((channel) => Math.abs(ranking?.muted[channel] ?? 0))) || 1;
  fill(frame.rows, channels.map((channel) => {
    const name = t("channel", {channel});
    const output = h("output", {});
    const slider = h("input", {
      type: "range", min: 0, max: MOST, step: 0.05, value: factors.get(channel) ?? 1, "data-key": `factor-${channel}`,
      "aria-label": t("what_if.factor", {channel: name}),
    });
    const mute = h("button", {
      type: "button", class: "quiet", "data-key": `mute-${channel}`,
      "aria-label": t("what_if.mute.channel", {channel: name}),
    }, t("what_if.mute"));
    const tell = () => {
      const factor = Number(slider.value);
      const said = factor === 0 ? t("what_if.muted") : `× ${factor.toFixed(2)}`;
      output.textContent = said;
      slider.style.setProperty("--at", `${(100 * factor) / MOST}%`);
      slider.setAttribute("aria-valuetext", said);
      mute.setAttribute("aria-pressed", String(factor === 0));
    };
    const set = () => {
      const factor = Number(slider.value);
      if (factor === 1) factors.delete(channel);
      else factors.set(channel, factor);
      tell();
      clearTimeout(timer);
      timer = setTimeout(() => change(scene), PAUSE);
    };
    slider.addEventListener("input", set);
    mute.addEventListener("click", () => {
      slider.value = Number(slider.value) === 0 ? 1 : 0;
      set();
    });
    tell();
    const weight = number((gate ?? importance).weights[channel]);
    const facts = ranking ? measured(channel, reach) : t(gate ? "attention.weight" : "what_if.weight", {weight});
    const about = h("span", {class: "muted about"}, facts);
    const opens = opener(place.gate ?? place.layer, channel, `what-if-${channel}`, name);
    return h("li", {}, h("span", {class: "name"}, opens), about, slider, output, mute);
  }));
  const first = place.gate
    ? (gate.effects ? "effect" : "gate")
    : (view.result.feature_maps?.some(({layer}) => layer === importance.layer) ? "layer" : "weights");
  fill(frame.order, t(`what_if.order.${ranking ? "measured" : first}`));
  fill(frame.agreement, ranking ? agreement(ranking.agreement) : "");
}

/** What muting a channel alone was measured to do, and what is taken for it. */
function measured(channel, reach) {
  const {muted, gradient_activation: share, gate_weights: gates} = ranking;
  const side = muted[channel] < 0 ? "for" : "against";
  const bar = h("span", {class: `effect effect-${side}`, "aria-hidden": "true"}, h("span", {}));
  bar.firstChild.style.setProperty("inline-size", `${(100 * Math.abs(muted[channel])) / reach}%`);
  const said = [
    t("what_if.alone", {change: signed(muted[channel])}),
    t("what_if.share", {share: signed(share[channel])}),
    gates && t("attention.weight", {weight: number(gates[channel])}),
  ];
  return [bar, said.filter(Boolean).join(" · ")];
}

function agreement({gradient_weights: weights, gradient_activation: share, gate_weights: gates}) {
  const said = (value) => (value === null ? "–" : signed(value));
  return [
    t("what_if.agreement", {share: said(share), weights: said(weights)}),
    gates !== null && ` ${t("what_if.agreement.gate", {gates: said(gates)})}`,
  ].filter(Boolean).join("");
}

/** Ask what the edit does; an earlier question is given up. `rank`: also which channels mattered. */
async function change(scene, {rank = false, keeps = false} = {}) {
  const {view, place, frame} = scene;
  clearTimeout(timer);
  const signal = supersede("what-if");
  const scale = [...factors].map(([channel, factor]) => `${channel}:${factor}`).join(",");
  const ranked = rank || (view.state.rank && !ranking);
  if (!scale && !ranked) {
    fill(frame.results);
    view.look({scale: ""});
    return;
  }
  const query = new URLSearchParams({model: view.detail.name, max_side: 8, ...place});
  const [cam] = view.result.grad_cam;
  for (const [name, value] of [...seen(view), ...sameTarget(cam, view.state, ["region"])]) query.set(name, value);
  if (scale) query.set("scale", scale);
  if (ranked) query.set("rank", "true");
  const problem = await view.attempt(async () => {
    const {result} = await ask("v1/what-if", view.photo, query, signal, view.reference);
    if (signal.aborted) return;
    const found = result.what_if;
    if (ranked) {
      ranking = found.ranking;
      channels = [...new Set([...ranking.most.slice(0, STRONGEST).map(({channel}) => channel), ...factors.keys()])];
      drawRows(scene);
    }
    view.look({scale, rank: ranking ? "true" : "", gate: place.gate ?? ""});
    fill(frame.results, scale ? outcome(found) : []);
  }, {again: () => change(scene, {rank}), keeps});
  if (problem && !signal.aborted) fill(frame.results);
}

/** What the network says before and after, and the class's map. */
function outcome({before, after, targets: [{before: was, after: is, change: by, maps}]}) {
  const rows = new Map();
  for (const [side, list] of [["before", [...before, was]], ["after", [...after, is]]]) {
    for (const each of list) rows.set(each.index, {...rows.get(each.index), [side]: each});
  }
  const said = (each) => h("td", {}, each ? score(each) : "–");
  const delta = ({before: one, after: other}) => h("td", {}, one && other ? changeOf(one, other) : "–");
  const head = (text) => h("th", {scope: "col"}, text);
  const {box, reach, first, second, difference} = maps;
  return [
    h("p", {}, tOf("what_if.logit", kindOf(was), {
      label: nameOf(was), was: was.logit === undefined ? score(was) : number(was.logit),
      is: is.logit === undefined ? score(is) : number(is.logit), change: signed(by),
    })),
    h("table", {class: "figures"},
      h("thead", {}, h("tr", {}, head(tOf("what_if.class", kindOf(was))), head(t("side.before")), head(t("side.after")), head("Δ"))),
      h("tbody", {}, [...rows.values()].map((row) => h(
        "tr", {}, h("th", {scope: "row"}, nameOf(row.before ?? row.after)), said(row.before), said(row.after), delta(row),
      )))),
    ...trio([
      {values: first.raw.values, box, caption: t("side.before"), key: "what-if-before"},
      {values: second.raw.values, box, caption: t("side.after"), key: "what-if-after"},
      {values: difference.raw.values, box, caption: t("side.difference"), key: "what-if-difference"},
    ], reach, kindOf(was)),
  ];
}
