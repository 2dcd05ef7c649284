// A channel's page: what it responds to, which channels tell two classes apart, and which respond to a part of the picture.

import {ask, get, seen, supersede} from "./api.js";
import {channelLink, classLine, crops, distribution, marks, told, valuesOf} from "./channel_card.js";
import {byId, fill, h} from "./dom.js";
import {number, percent, signed, t} from "./i18n.js";
import {classOf} from "./predictions.js";
import {giveBack, lend} from "./stage.js";

const LISTED = 6;  // channels of a list
const EDGES = ["left", "top", "right", "bottom"];
const DEGREES = [[0.2, "poorly"], [0.4, "weakly"], [0.7, "fairly"], [Infinity, "well"]];

const bodyOf = (id) => byId(id).querySelector(".body");
let found = {};  // what a box was asked about last, and the answer

/** The channel that the address names, or else the strongest of the deepest layer. */
function channelAt({state, detail: {atlas, default_layer: usual}, result}) {
  const cut = state.channel.lastIndexOf("/");
  const layer = state.channel.slice(0, cut);
  if ([...atlas.layers, ...atlas.gates].includes(layer)) return [layer, Number(state.channel.slice(cut + 1)) || 0];
  const first = atlas.layers.includes(usual.name) ? usual.name : atlas.layers.at(-1) ?? atlas.gates.at(-1);
  return [first, result.feature_maps?.find((each) => each.layer === first)?.channels[0] ?? 0];
}

/** Draw a channel's page. */
export async function renderChannel(view) {
  const {detail: {atlas, layers, gates, output}} = view;
  if (!atlas) return;
  const [layer, channel] = channelAt(view);
  const signal = supersede("channel");
  const [said, own] = await Promise.all([told(view, layer, channel), valuesOf(view, layer, channel).catch(() => null)]);
  if (signal.aborted) return;
  const {shape: [count]} = gates.find((each) => each.layer === layer) ?? layers.find((each) => each.name === layer);
  byId("channel-title").textContent = t("channel.title", {layer, channel});
  const step = (to, key) => to >= 0 && to < count && channelLink(
    view, layer, to, {class: "button plain", "data-key": key, "aria-label": t("channel", {channel: to})},
    key === "previous" ? `‹ ${to}` : `${to} ›`,
  );
  const {maximum, mean, zeros, weight, damaged, examples, pictures} = said;
  const gallery = ([by, several]) => several.some(({crop}) => crop) &&
    h("section", {}, h("h3", {}, t(`channel.by.${by}`)), crops(several, true));
  const list = (key, scores) => scores.length > 0 && h("section", {}, h("h3", {}, t(key)), h("ol", {class: "ranks"}, scores.map(
    (each) => h("li", {}, h("span", {}, each.label), h("span", {class: "muted"}, signed(each.score))),
  )));
  fill(
    bodyOf("channel"),
    h("div", {class: "act pick"}, step(channel - 1, "previous"), step(channel + 1, "next"), choose(view, layer, channel, count)),
    said.before && h("p", {class: "muted"}, t("channel.gate"), " ", atlas.layers.includes(said.before) && channelLink(
      view, said.before, channel, marks(said.before, channel), t("channel.before", {layer: said.before, channel}),
    )),
    h("div", {class: "columns"}, Object.entries(examples).map(gallery)),
    trusts(said),
    h("div", {class: "columns"}, list("channel.for", said.speaks_for), list("channel.against", said.speaks_against),
      list(weight ? "channel.raising" : "channel.activating", said.activating)),
    said.speaks_for.length > 0 && h("p", {class: "muted"}, t(`channel.evidence.${said.evidence}`)),
    h("div", {class: "columns spreads"}, weight
      ? [distribution([["clean", weight]], own?.weight, t("card.weight")),
        distribution([["clean", damaged.clean], ...Object.entries(damaged).filter(([name]) => name !== "clean")], undefined, t("channel.damaged"))]
      : [distribution([["clean", maximum]], own?.maximum, t("card.maximum")),
        distribution([["clean", mean]], own?.mean, t("channel.mean"))]),
    weight && h("ul", {class: "keys spread-keys", "aria-hidden": "true"}, Object.keys(damaged).map(
      (name) => h("li", {class: `of-${name}`}, t(`damage.${name}`)),
    )),
    h("p", {class: "muted"}, weight ? t("channel.pictures", {pictures}) : t("channel.zeros", {pictures, zeros: percent(zeros)})),
  );
  byId("apart").hidden = !["softmax", "sigmoid"].includes(output.kind);
  if (!byId("apart").hidden) renderApart(view, layer);
}

/** How far this layer's crops and classes can be trusted, in a sentence. */
function trusts({crops_predict: predict, classes_agree: agree}) {
  if (typeof predict !== "number" || typeof agree !== "number") return null;
  const degree = (value) => t(`degree.${DEGREES.find(([end]) => value < end)[1]}`);
  return h("p", {class: "muted"}, t("channel.trusts", {
    predict: degree(predict), agree: degree(agree), crops: predict.toFixed(2), classes: agree.toFixed(2),
  }));
}

function choose(view, layer, channel, count) {
  const {atlas} = view.detail;
  const visit = (name, number) => view.visit({tab: "channel", channel: `${name}/${number}`});
  return [
    h("label", {class: "control"}, h("span", {}, t("channel.layer")), h(
      "select", {"data-key": "channel-layer", onchange: ({target}) => visit(target.value, 0)},
      [...atlas.layers, ...atlas.gates].map((name) => h("option", {value: name, selected: name === layer}, name)),
    )),
    h("label", {class: "control"}, h("span", {}, t("channel.number", {last: count - 1})), h("input", {
      type: "number", min: 0, max: count - 1, required: true, value: channel, "data-key": "channel-number",
      onchange: ({target}) => target.reportValidity() && visit(layer, Number(target.value)),
    })),
  ];
}

/** Which channels of the layer tell one class from another: a form, and the list once it is asked for. */
function renderApart(view, layer) {
  const {detail, result: {predictions}} = view;
  const field = (key, value) => h("label", {class: "control"}, h("span", {}, t(`apart.${key}`)), h("input", {
    list: "labels", name: key, required: true, value, "data-key": `apart-${key}`, autocomplete: "off", spellcheck: "false",
  }));
  const answers = h("ol", {class: "answers", "aria-live": "polite"});
  const submit = (event) => {
    event.preventDefault();
    const {target: one, against: other} = event.target.elements;
    const classes = `target=${encodeURIComponent(classOf(one.value))}&against=${encodeURIComponent(classOf(other.value))}`;
    const path = `v1/models/${encodeURIComponent(detail.name)}/layers/${encodeURIComponent(layer)}/channels?${classes}`;
    const signal = supersede("apart");
    view.attempt(async () => {
      const {entries} = await get(`${path}&limit=${LISTED}`);
      if (!signal.aborted) fill(answers, entries.map((each) => answer(view, layer, each)));
    });
  };
  fill(bodyOf("apart"), h("form", {class: "fields", onsubmit: submit},
    field("target", predictions[0]?.label ?? ""), field("against", predictions[1]?.label ?? ""),
    h("button", {class: "button plain", "data-key": "apart"}, t("apart.ask"))), answers);
}

/** A channel of a list, with what it responds to. */
function answer(view, layer, {channel, score, meaning, speaks_for: speaks, activating}) {
  return h("li", {},
    h("p", {}, channelLink(view, layer, channel, {"data-key": `answer-${channel}`, ...marks(layer, channel)}, t("channel", {channel})),
      h("span", {class: "muted"}, ` ${signed(score)}`)),
    meaning && crops(meaning.crops.map((crop) => ({crop}))),
    h("div", {class: "lines"}, classLine("channel.for", meaning?.speaks_for ?? speaks),
      classLine("card.activating", meaning?.activating ?? activating)));
}

/** Which channels respond to what is in a box: dragged on the photograph, or written into four fields. */
export async function renderBox(view) {
  const {detail: {atlas, gates, layers}, result: {image}, state} = view;
  if (!atlas) return;
  const [named] = channelAt(view);
  const layer = gates.find((each) => each.layer === named)?.before ?? named;
  byId("box").hidden = !layers.some(({name}) => name === layer);
  if (byId("box").hidden) {
    giveBack();
    return;
  }
  const edges = state.box.split(",").map(Number);
  const fields = EDGES.map((edge, n) => h("label", {class: "control"}, h("span", {}, t(`box.${edge}`)), h("input", {
    type: "number", min: 0, max: n % 2 ? image.height : image.width, required: true, "data-key": `box-${edge}`,
    value: edges.length === 4 ? edges[n] : "",
  })));
  const answers = h("ol", {class: "answers", "aria-live": "polite"});
  let now = state.box;
  const show = async (box) => {
    now = box;
    const about = [view.photo.id ?? view.photo.sample, seen(view).join(), view.detail.name, layer, box].join("|");
    view.look({box});
    const signal = supersede("box");
    await view.attempt(async () => {
      if (found.about !== about || found.photo !== view.photo) {
        const query = new URLSearchParams({model: view.detail.name, layer, box, count: LISTED, atlas: true});
        for (const [name, value] of seen(view)) query.set(name, value);
        const {result} = await ask("v1/channels", view.photo, query, signal);
        found = {about, photo: view.photo, entries: result.channels.entries};
      }
      fill(answers, found.entries.map((each) => answer(view, layer, each)));
    }, {keeps: true});
  };
  const dragged = (region) => {
    const box = region.split(",");
    if (box.length !== 4) return lend(dragged, now);  // a point
    fields.forEach((field, n) => { field.lastChild.value = box[n]; });
    return show(region).then(() => byId("box").scrollIntoView());  // the photograph stays beside it
  };
  const submit = (event) => {
    event.preventDefault();
    const box = fields.map((field) => field.lastChild.value).join(",");
    lend(dragged, box);
    show(box);
  };
  lend(dragged, state.box);
  fill(bodyOf("box"), h("p", {class: "muted"}, t("box.lead", {layer})),
    h("form", {class: "fields edges", onsubmit: submit}, fields, h("button", {class: "button plain", "data-key": "box"}, t("box.ask"))),
    answers);
  if (edges.length === 4) await show(state.box);
}
