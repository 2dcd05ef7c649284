// Why one class and not another: both raw maps and their difference, on one scale.

import {byId, fill, h} from "./dom.js";
import {t, tOf} from "./i18n.js";
import {renderAlike} from "./reference.js";
import {reachOf, stretched, trio} from "./trio.js";

const panel = byId("compare");

/** Draw the comparison, if the view has a second class, or a second picture that the first is likened to. */
export async function renderCompare(view) {
  const {detail, result, update} = view;
  byId("compare-title").textContent = tOf("compare.title", detail.output.kind);
  panel.querySelector(".help p").textContent = tOf("compare.help", detail.output.kind);
  if (detail.output.kind === "embedding") {
    await renderAlike(panel, view);
    return;
  }
  const [one] = result.grad_cam ?? [];
  const other = result.grad_cam?.find(({target}) => target.index !== one.target.index);
  panel.hidden = !other;
  if (!other) return;
  if (one.fused) {
    fill(panel.querySelector(".body"), stretched());
    return;
  }
  const {box} = one;
  const first = one.raw.values;
  const second = other.raw.values;
  const difference = first.map((row, y) => row.map((value, x) => value - second[y][x]));
  const names = {one: one.target.label, other: other.target.label};
  fill(
    panel.querySelector(".body"),
    ...trio([
      {values: first, box, caption: names.one, key: "compare-one"},
      {values: second, box, caption: names.other, key: "compare-other"},
      {values: difference, box, caption: t("compare.difference", names), key: "compare-difference"},
    ], reachOf([first, second, difference]), one.direction ?? detail.output.kind),
    h("p", {class: "muted"}, t("compare.read", names), " ",
      h("button", {
        type: "button", class: "link", "data-key": "swap",
        onclick: () => update({target: String(other.target.index), versus: String(one.target.index)}),
      }, t("compare.swap")), " ",
      detail.output.kind !== "linear" && h("button", {
        type: "button", class: "link", "data-key": "contrast",
        onclick: () => update({target: String(one.target.index), versus: "", against: String(other.target.index)}),
      }, t("compare.contrast"))),
  );
}
