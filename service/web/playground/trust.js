// How far the map can be trusted: it costs, so it is tried when asked for, and the cost is said before.

import {ask, sameTarget, supersede} from "./api.js";
import {byId, fill, h, svg} from "./dom.js";
import {number, percent, signed, t, tOf} from "./i18n.js";
import {kindOf, nameOf} from "./scores.js";

const WIDTH = 120;  // of a chart, in its own units
const HEIGHT = 72;
const LINES = ["map", "gaussian", "random"];
const BETTER = {deletion: "lower", insertion: "higher", road: "lower"};

const panel = byId("trust");
const body = panel.querySelector(".body");

let last = {};          // the map that was tried last, and what was found: {photo, asked, trust}
const lately = new Map();  // what trying took, by network, as the service told with its last answer

/** Draw what was found of a view's map, or what finding it would cost. */
export function renderTrust(view) {
  const [cam] = view.result.grad_cam ?? [];
  panel.hidden = !cam;
  panel.querySelector(".help p").textContent = tOf("trust.help", view.detail.output.kind);
  const asked = cam && questionOf(view, cam);
  if (last.photo !== view.photo || last.reference !== view.reference || last.asked !== asked) {
    supersede("trust");
    last = {photo: view.photo, reference: view.reference, asked};
  }
  if (!cam) return;
  if (last.trust) draw(last.trust, cam);
  else if (view.state.trust) find(view, cam, true);
  else offer(view, cam);
}

/** The map's own request, with trust: its picture is there already, so the smallest will do. */
function questionOf({query, state}, cam) {
  const asked = new URLSearchParams({trust: "true", max_side: 8});
  for (const [name, value] of sameTarget(cam, state)) asked.set(name, value);
  for (const name of ["model", "view", "detail", "layer", "method"]) if (query.has(name)) asked.append(name, query.get(name));
  return asked.toString();
}

function priceOf({detail}) {
  const {passes, estimated_ms: ms} = lately.get(detail.name) ?? detail.trust;
  if (!ms) return t("trust.cost.unknown", {passes});
  return t("trust.cost", {passes, seconds: ms < 950 ? (ms / 1000).toFixed(1) : Math.round(ms / 1000)});
}

function offer(view, cam) {
  fill(
    body,
    h("p", {}, tOf("trust.offer", kindOf(cam.target), {label: nameOf(cam.target)})),
    h("p", {class: "act"}, h(
      "button", {type: "button", class: "button plain", "data-key": "trust", onclick: () => find(view, cam)},
      t("trust.ask"),
    ), h("span", {class: "muted", id: "trust-cost"}, priceOf(view))),
  );
}

async function find(view, cam, keeps = false) {
  const signal = supersede("trust");
  const mine = last;
  fill(body, h("p", {class: "act", role: "status"}, h(
    "button", {type: "button", class: "button plain", "data-key": "trust", onclick: () => stop()}, t("trust.stop"),
  ), h("span", {class: "muted"}, t("trust.busy", {cost: priceOf(view)}))));
  const stop = () => {
    supersede("trust");
    view.look({trust: ""});
    offer(view, cam);
  };
  const problem = await view.attempt(async () => {
    const {result} = await ask("v1/grad-cam", view.photo, mine.asked, signal, view.reference);
    mine.trust = result.grad_cam[0].trust;
    lately.set(view.detail.name, mine.trust.cost);
  }, {again: () => find(view, cam), keeps});
  if (mine !== last || signal.aborted) return;
  view.look({trust: problem ? "" : "true"});
  if (problem) offer(view, cam);
  else draw(mine.trust, cam);
}

function draw(trust, cam) {
  const {advantage, p_value: p, gaussian, beaten, random_maps: random, curves, finding, measure} = trust;
  const all = curves.flatMap(({map, gaussian: spot, random: {min, max}}) => [...map, ...spot, ...min, ...max]);
  const low = measure === "probability" ? 0 : Math.min(...all);
  const reach = Math.max(...all) - low || 1;
  fill(
    body,
    h("div", {class: `finding finding-${finding}`},
      h("p", {class: "advantage"}, signed(advantage)),
      h("div", {},
        h("p", {}, h("strong", {}, t(`finding.${finding}`)), " ",
          t(`finding.${finding}.why`, {label: nameOf(cam.target)})),
        h("p", {class: "muted"}, tOf("trust.advantage", kindOf(cam.target), {
          unit: cam.target.unit || t("trust.unit"),
          p: number(p), beaten, random, gaussian: signed(gaussian),
        })))),
    h("ul", {class: "keys", "aria-hidden": "true"}, LINES.map((name) => h(
      "li", {class: `key-${name}`}, t(`curve.${name}`),
    ))),
    h("div", {class: "charts"}, curves.map((curve) => chart(curve, low, reach, measure))),
    areas(curves, kindOf(cam.target)),
    facts(trust),
  );
}

/** The score against the share of pixels that are gone, or back. */
function chart({test, fractions, map, gaussian, random, auc}, low, reach, measure) {
  const at = (share, value) => `${(WIDTH * share).toFixed(2)} ${(HEIGHT * (1 - (value - low) / reach)).toFixed(2)}`;
  const line = (values) => values.map((value, n) => `${n ? "L" : "M"}${at(fractions[n], value)}`).join("");
  const back = random.min.map((value, n) => `L${at(fractions[n], value)}`).reverse().join("");
  const range = t("compare.range", {min: number(low), max: number(low + reach)});
  const values = {
    test: t(`test.${test}`), map: number(auc.map), gaussian: number(auc.gaussian), random: number(mean(auc.random)),
  };
  return h(
    "figure", {class: "chart"},
    h("figcaption", {}, h("strong", {}, t(`test.${test}`)), h("span", {}, t(`better.${BETTER[test]}`))),
    h("p", {class: "ends", "aria-hidden": "true"}, measure === "probability" ? percent(reach) : range),
    svg(
      "svg", {viewBox: `0 -2 ${WIDTH} ${HEIGHT + 4}`, preserveAspectRatio: "none", role: "img", "aria-label": t("curve.summary", values)},
      svg("path", {class: "axis", d: `M0 0V${HEIGHT}H${WIDTH}`}),
      svg("path", {class: "span", d: `${line(random.max)}${back}Z`}),
      svg("path", {class: "random", d: line(random.mean)}),
      svg("path", {class: "gaussian", d: line(gaussian)}),
      svg("path", {class: "map", d: line(map)}),
    ),
    h("p", {class: "ends", "aria-hidden": "true"}, h("span", {}, "0 %"), h("span", {}, t(`pixels.${test}`))),
  );
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function areas(curves, kind) {
  const head = (text) => h("th", {scope: "col"}, text);
  return h(
    "table", {class: "figures"}, h("caption", {class: "muted"}, tOf("trust.areas", kind)),
    h("thead", {}, h("tr", {}, head(t("trust.test")), LINES.map((name) => head(t(`curve.${name}`))))),
    h("tbody", {}, curves.map(({test, auc}) => h(
      "tr", {},
      h("th", {scope: "row"}, t(`test.${test}`), " ", h("span", {class: "muted"}, t(`better.${BETTER[test]}`))),
      [auc.map, auc.gaussian, mean(auc.random)].map((value) => h("td", {}, number(value))),
    ))),
  );
}

/** What no curve says: confidence, the share of positive evidence, the sanity check, and the price. */
function facts({confidence, positive_share: share, sanity, cost}) {
  const likeness = sanity.mean_magnitude;
  const rows = [
    confidence && ["trust.confidence", t(confidence.map.drop ? "trust.drop" : "trust.drop.none", {
      share: percent(confidence.map.probability), map: percent(confidence.map.drop),
      gaussian: percent(confidence.gaussian.drop), random: percent(confidence.random.drop),
    })],
    ["trust.positive", percent(share)],
    ["trust.sanity", likeness === null
      ? t("sanity.none")
      : t("sanity.read", {
        likeness: number(likeness),
        all: sanity.correlations.map((each) => (each === null ? "–" : number(each))).join(", "),
      })],
    ["trust.spent", t("trust.passes", {passes: cost.passes})],
  ].filter(Boolean);
  return h("dl", {class: "facts"}, rows.map(([name, value]) => h("div", {}, h("dt", {}, t(name)), h("dd", {}, value))));
}
