// What a channel responds to, by the network's atlas: a card wherever a channel is named, and the parts of its page.

import {ask, get, seen} from "./api.js";
import {byId, fill, h, svg} from "./dom.js";
import {number, t} from "./i18n.js";
import {addressOf} from "./state.js";

const REST = 250;    // milliseconds that a pointer or the focus rests on a channel before its card opens
const LEAVE = 300;   // and that the card stays once the pointer has left, so that it can be reached
const KEPT = 300;    // channels that are remembered
const CROPS = 6;
const CLASSES = 3;
const GAP = 8;       // pixels between the card and what it is about
const WIDTH = 120;   // of a curve, in its own units
const HEIGHT = 60;

const known = new Map();  // a channel's address -> what the atlas says of it
const card = h("section", {class: "card", popover: "manual", role: "dialog", "aria-labelledby": "card-title"});
byId("main").append(card);

let view = null;
let anchor = null;    // what the card is about, while it is open
let held = false;     // whether it was opened by a press: it has the focus, and stays
let pending = null;
let timer;

/** Show cards of this view's channels from now on. */
export function meet(shown) {
  view = shown;
  shut();
}

const knows = (layer) => [...(view?.detail.atlas?.layers ?? []), ...(view?.detail.atlas?.gates ?? [])].includes(layer);

/** The attributes of an element that names a channel; none where no atlas knows its layer. */
export const marks = (layer, channel) => (knows(layer) ? {"data-layer": layer, "data-channel": channel} : {});

/** What opens the card by a press, with `inside` as its text; `without` where there is no card. */
export function opener(layer, channel, key, inside, label = t("card.open", {channel: t("channel", {channel})}), without = inside) {
  if (!knows(layer)) return without;
  return h("button", {
    type: "button", class: "quiet opens", "data-key": `card-${key}`, "aria-haspopup": "dialog", "aria-label": label,
    onclick: (event) => open(event.currentTarget, {hold: true}), ...marks(layer, channel),
  }, inside);
}

/** A link to a channel's page, an address of its own. */
export function channelLink({state, visit}, layer, channel, props, ...inside) {
  const patch = {tab: "channel", channel: `${layer}/${channel}`};
  return h("a", {
    href: addressOf({...state, ...patch}), ...props,
    onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      visit(patch);
    },
  }, ...inside);
}

/** What the atlas says of a channel; asked for once. */
export function told({detail}, layer, channel) {
  const path = `v1/models/${encodeURIComponent(detail.name)}/layers/${encodeURIComponent(layer)}/channels/${channel}`;
  if (known.size > KEPT) known.clear();
  if (!known.has(path)) known.set(path, get(path).catch((error) => known.delete(path) && Promise.reject(error)));
  return known.get(path);
}

/** The photograph's own values of a channel: `weight` of a gate, `maximum` and `mean` of a layer. */
export async function valuesOf({result, detail, photo, query: asked}, layer, channel) {
  const gate = result.attention?.gates.find((each) => each.layer === layer);
  if (gate) return {weight: gate.weights[channel]};
  const at = ({channels, stats}) => {
    const n = channels.indexOf(channel);
    return n < 0 ? null : {maximum: stats.max[n], mean: stats.mean[n]};
  };
  const shown = result.feature_maps?.find((each) => each.layer === layer);
  if (shown && at(shown)) return at(shown);
  const query = new URLSearchParams({model: detail.name, layers: layer, channels: channel});
  for (const [name, value] of seen({query: asked})) query.set(name, value);
  const {result: {feature_maps: [maps]}} = await ask("v1/feature-maps", photo, query);
  return at(maps);
}

/** Crops of an atlas as pictures, each with the class that the network predicts for it where `named`. */
export const crops = (examples, named) => h("ol", {class: "crops"}, examples.filter(({crop}) => crop).map((each) => {
  const {crop: {media_type: type, data, width, height}, predicted} = each;
  const label = predicted?.label ?? each.name ?? "";
  return h("li", {}, h("img", {src: `data:${type};base64,${data}`, width, height, alt: named ? "" : label}),
    named && h("p", {class: "muted"}, label));
}));

/** The share of an atlas' pictures below a value: see `Distribution.place` of pellucid/atlas/file.py. */
export function placeOf(quantiles, value) {
  const last = quantiles.length - 1;
  const below = quantiles.filter((each) => each < value).length;
  const upTo = quantiles.filter((each) => each <= value).length;
  if (upTo > below) return (below + upTo - 1) / 2 / last;
  if (below === 0 || below > last) return Number(below > last);
  const [low, high] = quantiles.slice(below - 1, below + 1);
  return (below - 1 + (value - low) / (high - low)) / last;
}

/** Quantiles as curves, from the picture with the smallest value to that with the largest; the photograph's is a dot. */
export function distribution(lines, value, caption) {
  const [[, quantiles]] = lines;
  const all = [...lines.flatMap(([, each]) => each), ...(value === undefined ? [] : [value])];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const at = (share, each) => `${(WIDTH * share).toFixed(2)} ${(HEIGHT * (1 - (each - low) / (high - low || 1))).toFixed(2)}`;
  const curve = ([name, each]) => svg("path", {
    class: `of-${name}`, d: each.map((one, n) => `${n ? "L" : "M"}${at(n / (each.length - 1), one)}`).join(""),
  });
  const place = value === undefined ? null : placeOf(quantiles, value);
  const least = quantiles.lastIndexOf(quantiles[0]);  // so many share the smallest value: of a ReLU, 0
  const key = value > quantiles.at(-1) ? "above" : value < quantiles[0] ? "below" : value === quantiles[0] ? "same" : "place";
  const share = Math.round(100 * (key === "same" ? least / (quantiles.length - 1) : place));
  const said = place === null ? "" : t(`card.${key}`, {value: number(value), share});
  return h("figure", {class: "chart spread"},
    h("figcaption", {}, h("strong", {}, caption), h("span", {}, t("compare.range", {min: number(low), max: number(high)}))),
    svg("svg", {viewBox: `0 -4 ${WIDTH} ${HEIGHT + 8}`, preserveAspectRatio: "none", role: "img", "aria-label": `${caption}: ${said}`},
      svg("path", {class: "axis", d: `M0 0V${HEIGHT}H${WIDTH}`}), lines.map(curve).reverse(),
      place !== null && svg("path", {class: "own", d: `M${at(place, value)}h0`})),
    h("p", {class: "ends", "aria-hidden": "true"}, h("span", {}, t("card.least")), h("span", {}, t("card.most"))),
    said && h("p", {class: "said"}, said));
}

/** Classes in a line, the first ones; nothing where there are none. */
export const classLine = (key, list) => list?.length > 0 && h("p", {}, h("span", {class: "muted"}, `${t(key)} `),
  list.slice(0, CLASSES).map(({label}) => label).join(t("comma")));

async function draw(layer, channel) {
  const about = view;
  const said = await told(about, layer, channel);
  const before = about.detail.atlas.layers.includes(said.before) && said.before;
  const [values, meaning] = await Promise.all([
    valuesOf(about, layer, channel).catch(() => null), before ? told(about, before, channel) : said,
  ]);
  const {examples} = meaning;
  return [
    h("header", {}, h("h3", {id: "card-title"}, h("code", {}, layer), ` ${t("channel", {channel})}`),
      h("button", {type: "button", class: "quiet step", "aria-label": t("card.close"), onclick: () => shut(true)}, "×")),
    before && h("p", {class: "muted"}, t("card.crops", {layer: before})),
    crops((examples.maximum ?? examples.highest).slice(0, CROPS)),
    h("div", {class: "lines"}, classLine("channel.for", meaning.speaks_for), classLine("card.activating", meaning.activating)),
    said.weight
      ? distribution([["clean", said.weight]], values?.weight, t("card.weight"))
      : distribution([["clean", said.maximum]], values?.maximum, t("card.maximum")),
    channelLink(about, layer, channel, {class: "all"}, t("card.all")),
  ];
}

async function open(node, {hold = false, x} = {}) {
  clearTimeout(timer);
  const {layer, channel} = node.dataset;
  anchor = node;
  held = hold;
  let content;
  const work = async () => { content = await draw(layer, Number(channel)); };
  await (hold ? view.attempt(work) : work().catch(() => {}));
  if (anchor !== node || node.dataset.channel !== channel) return;
  if (!content || !node.isConnected) {
    shut();
    return;
  }
  fill(card, ...content);
  card.showPopover();
  const {left, right, top, bottom} = node.getBoundingClientRect();
  const {offsetWidth: width, offsetHeight: height} = card;
  const within = (at, room) => Math.max(GAP, Math.min(at, room - GAP));
  const below = bottom + GAP + height < innerHeight;
  const above = !below && top > height + GAP;
  card.style.setProperty("--top", `${below ? bottom + GAP : above ? top - GAP - height : within(top, innerHeight - height)}px`);
  const beside = right + GAP + width < innerWidth ? right + GAP : left - GAP - width;
  card.style.setProperty("--left", `${within(below || above ? x ?? left : beside, innerWidth - width)}px`);
  if (hold) card.querySelector("button").focus({preventScroll: true});
}

/** Close the card; `back`: the focus returns to what it was about. */
function shut(back = false) {
  clearTimeout(timer);
  const from = anchor?.isConnected ? anchor : document.querySelector(`[data-key="${CSS.escape(anchor?.dataset.key ?? "")}"]`);
  const had = card.contains(document.activeElement);
  anchor = null;
  held = false;
  if (card.matches(":popover-open")) card.hidePopover();
  if (back && had) from?.focus({preventScroll: true});
  clearTimeout(timer);  // the focus that came back opens nothing
}

/** Open the card of this element, or close it, once the pointer or the focus has rested. */
function consider(node, x) {
  const next = node ? `${node.dataset.layer}/${node.dataset.channel}` : null;
  if (held || next === pending) return;
  pending = next;
  clearTimeout(timer);
  timer = setTimeout(() => (node ? open(node, {x}) : shut()), node ? REST : LEAVE);
}

const namedBy = ({target}) => target.closest?.("[data-channel]");

document.addEventListener("pointermove", (event) => {
  if (event.pointerType !== "mouse" || event.buttons) return;
  if (card.contains(event.target)) {
    clearTimeout(timer);
    pending = undefined;
  } else consider(namedBy(event), event.clientX);
});
document.addEventListener("focusin", (event) => {
  if (event.target.matches(":focus-visible") && !card.contains(event.target)) consider(namedBy(event));
});
document.addEventListener("keyup", (event) => namedBy(event) && consider(namedBy(event)));  // a strip's arrows
document.addEventListener("focusout", () => consider(null));
card.addEventListener("focusout", ({relatedTarget: next}) => next && !card.contains(next) && shut());
document.addEventListener("pointerdown", ({target}) => !card.contains(target) && shut());
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !card.matches(":popover-open")) return;
  event.stopPropagation();  // the stage keeps what is over the photograph
  shut(true);
}, true);
// a finger does not hover: what it chooses shows its card as well
document.addEventListener("click", (event) => {
  const node = namedBy(event);
  if (event.pointerType === "touch" && node?.matches(".named button")) open(node, {hold: true});
});
addEventListener("scroll", () => !held && anchor && shut(), {passive: true});
