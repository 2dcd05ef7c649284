// Why one class and not another: both raw maps and their difference, on one scale.

import {byId, fill, h} from "./dom.js";
import {number, signed, t} from "./i18n.js";
import {coloured, ramp, signedLevels} from "./pictures.js";
import {enlarge, overBox} from "./stage.js";

const COLOURS = "coolwarm";
const panel = byId("compare");
const SIDE = 256;

const reachOf = (maps) => Math.max(...maps.flat(2).map(Math.abs));

/** Draw the comparison, if the view has a second class. */
export function renderCompare({result, update}) {
  const [one, other] = result.grad_cam ?? [];
  panel.hidden = !other;
  if (!other) return;
  const first = one.raw.values;
  const second = other.raw.values;
  const difference = first.map((row, y) => row.map((value, x) => value - second[y][x]));
  const reach = reachOf([first, second, difference]);
  const [x0, y0, x1, y1] = one.box;
  const height = Math.round((SIDE * (y1 - y0)) / (x1 - x0));
  const legend = {colours: COLOURS, low: signed(-reach), high: signed(reach), note: t("compare.scale")};
  const figure = (values, caption, key) => {
    const pixels = coloured(signedLevels(values, reach, SIDE, height), COLOURS);
    const shown = overBox(pixels, 0.7);
    shown.setAttribute("aria-hidden", "true");
    const flat = values.flat();
    const range = t("compare.range", {min: number(Math.min(...flat)), max: number(Math.max(...flat))});
    return h("figure", {}, h(
      "button",
      {
        type: "button", class: "picture", "data-key": `compare-${key}`,
        "aria-label": t("enlarge", {what: `${caption}, ${range}`}),
        onclick: (event) => enlarge({pixels, caption, legend, from: event.currentTarget}),
      }, shown,
    ), h("figcaption", {}, caption, h("span", {class: "muted"}, range)));
  };
  const names = {one: one.target.label, other: other.target.label};
  fill(
    panel.querySelector(".body"),
    h("div", {class: "trio"},
      figure(first, names.one, "one"),
      figure(second, names.other, "other"),
      figure(difference, t("compare.difference", names), "difference")),
    h("div", {class: "legend"}, ramp(COLOURS),
      h("p", {class: "ends"}, h("span", {}, t("compare.against", {value: legend.low})),
        h("span", {}, t("compare.for", {value: legend.high})))),
    h("p", {class: "muted"}, t("compare.read", names), " ",
      h("button", {
        type: "button", class: "link", "data-key": "swap",
        onclick: () => update({target: String(other.target.index), versus: String(one.target.index)}),
      }, t("compare.swap"))),
  );
}
