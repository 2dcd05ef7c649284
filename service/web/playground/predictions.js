// What the network says: classes, labels or quantities, one of which is explained; of an embedding, how alike two are.

import {byId, fill, h, segments} from "./dom.js";
import {number, percent, t, tOf} from "./i18n.js";
import {renderReference} from "./reference.js";
import {kindOf, nameOf, score, scoreOf} from "./scores.js";
import {renderRegion, renderSegmentation, swatch} from "./segmentation.js";
import {viewOf} from "./state.js";

const panel = byId("predictions");
const body = panel.querySelector(".body");
const labels = byId("labels");
let named = new Map();  // what the list of suggestions calls a class -> its index

/** Suggest a network's labels. Labels that several classes share are told apart by their index. */
export function suggestLabels(all) {
  const times = Map.groupBy(all, (label) => label);
  named = new Map(all.map((label, index) => [
    times.get(label).length > 1 ? `${label} (${index})` : label, String(index),
  ]));
  fill(labels, [...named.keys()].map((value) => h("option", {value})));
}

/** How the service is asked for a class that was typed: what is no label goes as it is, and the answer says what is. */
export const classOf = (text) => named.get(text) ?? text;

/** Say in a sentence what was found, where the evidence lies, what the network saw, and what the map can't show. */
export function renderSays({detail, result, state}) {
  const [cam] = result.grad_cam ?? [];
  const {target} = cam ?? {};
  const joined = (text) => text.replaceAll(" ", "\u00a0");
  fill(byId("says"), cam ? [
    h("strong", {}, tOf("says", kindOf(target), {
      model: detail.name, label: nameOf(target), share: joined(score(target)),
    })), " ",
    cam.raw.all_negative ? t("says.nothing") : tOf("says.area", viewOf(state, detail), {area: joined(whole(areaOf(cam.raw.values)))}),
    h("span", {class: "muted"}, result.tiles
      ? t("says.saw.tiles", {count: result.tiles.length})
      : t(`says.saw.${viewOf(state, detail)}`), " ", t("says.honest")),
  ] : []);
}

const whole = (share) => (share < 0.01 ? percent(share) : `${Math.round(100 * share)} %`);

/** The share of a map's positions that hold half of what it marks. */
function areaOf(values) {
  const marked = values.flat().filter((value) => value > 0).sort((one, other) => other - one);
  let left = marked.reduce((sum, value) => sum + value, 0) / 2;
  const count = marked.findIndex((value) => (left -= value) <= 0) + 1;
  return count / values.flat().length;
}

/** Draw the predictions of a view, and below them explained classes that are not among the first. */
export async function renderPredictions(view) {
  const {detail, result} = view;
  const {kind} = detail.output;
  byId("predictions-title").textContent = tOf("predictions.title", kind);
  panel.querySelector(".help p").textContent = tOf("predictions.help", kind);
  const parts = {segmentation: h("div", {class: "segmentation"}), region: h("div", {class: "region"})};
  if (kind === "embedding") {
    renderRegion(parts.region, view);
    renderReference(body, view);
    return;
  }
  const dense = kind === "dense";
  fill(body, dense && parts.segmentation, rows(view), kind === "sigmoid" && threshold(detail),
    dense && h("p", {class: "muted"}, t("predictions.shares")), dense && parts.region,
    kind === "linear" && direction(view), result.grad_cam && others(view));
  renderRegion(parts.region, view);
  if (dense) await renderSegmentation(parts.segmentation, view);
}

function rows({detail, result, state, update}) {
  const {kind, units} = detail.output;
  const explained = result.grad_cam?.map(({target}) => target) ?? [];
  const [target, versus] = explained;
  const further = explained.filter(({index}) => !result.predictions.some((each) => each.index === index));
  // maps of years and of degrees have no scale in common
  const comparable = kind !== "linear" || new Set(units ?? []).size < 2;
  const row = (each) => {
    const isTarget = each.index === target?.index;
    const isVersus = each.index === versus?.index;
    const classes = [isTarget && "is-target", isVersus && "is-versus", each.applies === false && "is-off"];
    return h(
      "li", {class: classes.filter(Boolean).join(" ") || null},
      h(
        "button",
        {
          type: "button", class: "class", "data-key": `class-${each.index}`, "aria-pressed": String(isTarget),
          title: each.logit === undefined ? null : t("predictions.logit", {logit: number(each.logit)}),
          onclick: () => update({target: String(each.index), versus: isVersus ? "" : state.versus}),
        },
        h("span", {class: "label"}, kind === "dense" && swatch(each.index, detail), each.label), " ",
        h("span", {class: "share"}, each.applies && h("span", {class: "applies"}, t("predictions.applies"), " "),
          score(each)),
        kind !== "linear" && bar(each, detail.output),
      ),
      target && comparable && h(
        "button",
        {
          type: "button", class: "quiet versus", "data-key": `versus-${each.index}`, "aria-pressed": String(isVersus),
          disabled: isTarget, "aria-label": t("predictions.versus", {label: each.label}),
          title: t("predictions.versus", {label: each.label}),
          onclick: () => update({target: String(target.index), versus: isVersus ? "" : String(each.index)}),
        },
        t("predictions.vs"),
      ),
    );
  };
  return h("ol", {class: "classes"}, result.predictions.map(row), further.map(row));
}

function bar(each, output) {
  const made = h("span", {class: "bar", "aria-hidden": "true"}, h("span", {}));
  made.firstChild.style.setProperty("inline-size", `${100 * scoreOf(each)}%`);
  if (output.kind !== "sigmoid") return made;
  const mark = h("i", {class: "threshold"});
  mark.style.setProperty("inset-inline-start", `${100 * output.threshold}%`);
  made.append(mark);
  return made;
}

const threshold = ({output}) =>
  h("p", {class: "muted"}, t("predictions.threshold", {threshold: percent(output.threshold)}));

/** Whether the map is of what raises a quantity, or of what lowers it. */
function direction({result, state, update}) {
  const label = result.grad_cam?.[0].target.label;
  const options = ["up", "down"].map((value) => [value, `direction-${value}`, t(`direction.${value}`)]);
  return label && h("div", {class: "sorting"}, h("span", {class: "muted", id: "direction"}, t("direction", {label})),
    segments({"aria-labelledby": "direction"}, options, state.direction || "up",
      (value) => update({direction: value === "up" ? "" : value})));
}

function others({detail, result, update}) {
  const {kind} = detail.output;
  const [{target, against}] = result.grad_cam;
  const typed = (event) => {
    const text = event.target.value.trim();
    if (text) update({target: classOf(text), versus: ""});
  };
  // a contrast needs a class to begin with: the first, unless one was chosen
  const contrasted = (event) => update({target: String(target.index), against: classOf(event.target.value.trim())});
  return h("div", {class: "others"}, h(
    "label", {class: "control"}, h("span", {}, tOf("predictions.other", kind)),
    h("input", {
      list: "labels", "data-key": "other", autocomplete: "off", spellcheck: "false",
      placeholder: t("predictions.example"), onchange: typed,
    }),
  ), kind !== "linear" && h(
    "label", {class: "control"}, h("span", {}, t("predictions.against")),
    h("input", {
      type: "search", list: "labels", "data-key": "against", autocomplete: "off", spellcheck: "false",
      value: against?.[0].label ?? "", placeholder: t("predictions.example"), onchange: contrasted,
    }),
  ));
}
