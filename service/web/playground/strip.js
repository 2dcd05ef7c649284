// All channels of a gate as bars; one is selected, by pointer or by key.

import {marks, opener} from "./channel_card.js";
import {h, svg} from "./dom.js";
import {t} from "./i18n.js";

const HALF = 50;  // the strip is 100 high in its own units, its base in the middle
const KEYS = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10};

/** Channels in the order in which they are drawn: by index, or the largest of `values` first. */
export function ordered(count, values) {
  const channels = Array.from({length: count}, (_, channel) => channel);
  return values ? channels.sort((one, other) => values[other] - values[one]) : channels;
}

/**
 * Bars up and down from `base`, as far as `reach`, in the order of `channels`; `ends` are the scale's top, middle and
 * bottom in words. Returns the elements, and what chooses a channel.
 *
 * `say(channel)` is what is told of a channel, `onSelect(channel)` hears of a choice. It is a slider for those who
 * don't see it: its value is the position, its text the channel.
 */
export function strip({key, layer, label, weights, base, reach, ends, channels, selected, say, onSelect}) {
  const count = channels.length;
  const bar = (position, from = 0, to = 1) => {
    const rise = Math.max(-HALF, Math.min(HALF, ((weights[channels[position]] - base) / reach) * HALF));
    return `M${position + from} ${HALF}V${HALF - rise}H${position + to}V${HALF}Z`;
  };
  const gap = count > 200 ? 0 : 0.12;
  const up = [];
  const down = [];
  channels.forEach((channel, position) => {
    (weights[channel] >= base ? up : down).push(bar(position, gap, 1 - gap));
  });
  const cursor = svg("rect", {class: "cursor", y: 0, height: 2 * HALF, width: Math.max(1, count / 160)});
  const chosen = svg("rect", {class: "chosen", y: 0, height: 2 * HALF, width: Math.max(1, count / 160)});
  const readout = h("p", {class: "readout"});
  const about = opener(layer, selected, key, t("card.ask"), t("card.ask"), null);
  // hundreds of channels are narrower than a finger
  const step = (by, sign, name) => h("button", {
    type: "button", class: "quiet step", "data-key": `${key}-${name}`, "aria-label": t(name, {strip: label}),
    onclick: () => choose(position + by),
  }, sign);
  const told = h("div", {class: "told"}, step(-1, "‹", "channel.previous"), step(1, "›", "channel.next"), readout, about);
  const node = h(
    "div",
    {
      class: "strip", role: "slider", tabindex: 0, "aria-label": label, "data-key": key,
      "aria-valuemin": 1, "aria-valuemax": count, ...marks(layer, selected),
    },
    svg(
      "svg", {viewBox: `0 0 ${count} ${2 * HALF}`, preserveAspectRatio: "none", "aria-hidden": "true"},
      chosen, cursor,
      svg("path", {class: "up", d: up.join("")}), svg("path", {class: "down", d: down.join("")}),
      svg("path", {class: "base", d: `M0 ${HALF}H${count}`, "vector-effect": "non-scaling-stroke"}),
    ),
  );
  let position = channels.indexOf(selected);

  const mark = (rect, at) => rect.setAttribute("x", at + 0.5 - rect.width.baseVal.value / 2);
  const hover = (at) => {
    cursor.classList.toggle("on", at !== null);
    if (at !== null) mark(cursor, at);
    readout.textContent = say(channels[at ?? position]);
    if (about) node.dataset.channel = channels[at ?? position];
  };
  const settle = () => {
    mark(chosen, position);
    node.setAttribute("aria-valuenow", position + 1);
    node.setAttribute("aria-valuetext", say(channels[position]));
    hover(null);
    if (about) about.dataset.channel = channels[position];
  };
  const choose = (at) => {
    position = Math.max(0, Math.min(count - 1, at));
    settle();
    onSelect(channels[position]);
  };
  const under = (event) => {
    const {left, width} = node.getBoundingClientRect();
    return Math.max(0, Math.min(count - 1, Math.floor(((event.clientX - left) / width) * count)));
  };
  node.addEventListener("pointermove", (event) => hover(under(event)));
  node.addEventListener("pointerleave", () => hover(null));
  node.addEventListener("click", (event) => choose(under(event)));
  node.addEventListener("keydown", (event) => {
    const by = KEYS[event.key];
    if (by) choose(position + by);
    else if (event.key === "Home") choose(0);
    else if (event.key === "End") choose(count - 1);
    else return;
    event.preventDefault();
  });
  settle();
  const scale = h("div", {class: "scale", "aria-hidden": "true"}, ends.map((end) => h("span", {}, end)));
  const nodes = [h("div", {class: "scaled"}, scale, node), told];
  return {nodes, choose: (channel) => choose(channels.indexOf(channel))};
}
