// What a target's score is, by what the network puts out: a percentage only where there is a share or a probability.

import {number, percent, signed, t} from "./i18n.js";

/** The kind of output that a target, a prediction, is of: `catalogue.js` has it of a network. */
export function kindOf({similarity, value, share, applies}) {
  if (similarity !== undefined) return "embedding";
  if (value !== undefined) return "linear";
  if (share !== undefined) return "dense";
  return applies === undefined ? "softmax" : "sigmoid";
}

/** The number of a score. */
export const scoreOf = ({similarity, value, share, probability}) => similarity ?? value ?? share ?? probability;

/** A score in words: `35.5 %`, `41.5 years`, `0.830`. */
export function score(target) {
  if (target.similarity !== undefined) return number(target.similarity);
  if (target.value !== undefined) return [number(target.value), target.unit].filter(Boolean).join(" ");
  return percent(scoreOf(target));
}

/** What an edit did to a score. */
export function change(before, after) {
  const by = scoreOf(after) - scoreOf(before);
  if (["linear", "embedding"].includes(kindOf(after))) return signed(by);
  return t("what_if.points", {points: signed(100 * by)});
}

/** How the page names a target: the other picture has no label of its own. */
export const nameOf = (target, kind = kindOf(target)) => (kind === "embedding" ? t("reference.name") : target.label);
