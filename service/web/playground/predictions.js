// The predictions as bars; one class is explained, a second may be compared with it.

import {byId, fill, h} from "./dom.js";
import {number, percent, t} from "./i18n.js";

const body = byId("predictions").querySelector(".body");
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
const classOf = (text) => named.get(text) ?? text;

/** Draw the predictions of a view, and below them explained classes that are not among the first. */
export function renderPredictions({state, result, update}) {
  const explained = result.grad_cam?.map(({target}) => target) ?? [];
  const [target, versus] = explained;
  const further = explained.filter(({index}) => !result.predictions.some((each) => each.index === index));
  const row = (each) => {
    const isTarget = each.index === target?.index;
    const isVersus = each.index === versus?.index;
    const share = h("span", {class: "bar", "aria-hidden": "true"}, h("span", {}));
    share.firstChild.style.setProperty("inline-size", `${100 * each.probability}%`);
    return h(
      "li", {class: isTarget ? "is-target" : isVersus ? "is-versus" : null},
      h(
        "button",
        {
          type: "button", class: "class", "data-key": `class-${each.index}`, "aria-pressed": String(isTarget),
          title: each.logit === undefined ? null : t("predictions.logit", {logit: number(each.logit)}),
          onclick: () => update({target: String(each.index), versus: isVersus ? "" : state.versus}),
        },
        h("span", {class: "label"}, each.label), " ", h("span", {class: "share"}, percent(each.probability)), share,
      ),
      target && h(
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
  const against = result.grad_cam?.[0].against?.[0];
  const typed = (event) => {
    const text = event.target.value.trim();
    if (text) update({target: classOf(text), versus: ""});
  };
  // a contrast needs a class to begin with: the first, unless one was chosen
  const contrasted = (event) => update({target: String(target.index), against: classOf(event.target.value.trim())});
  fill(
    body,
    h("ol", {class: "classes"}, result.predictions.map(row), further.map(row)),
    target && h("div", {class: "others"}, h(
      "label", {class: "control"}, h("span", {}, t("predictions.other")),
      h("input", {
        list: "labels", "data-key": "other", autocomplete: "off", spellcheck: "false",
        placeholder: t("predictions.example"), onchange: typed,
      }),
    ), h(
      "label", {class: "control"}, h("span", {}, t("predictions.against")),
      h("input", {
        type: "search", list: "labels", "data-key": "against", autocomplete: "off", spellcheck: "false",
        value: against?.label ?? "", placeholder: t("predictions.example"), onchange: contrasted,
      }),
    )),
  );
}
