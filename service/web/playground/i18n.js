// Texts in the visitor's language: one file of strings each.

import {get} from "./api.js";

export const LANGUAGES = {en: "English", zh: "简体中文"};

let strings = {};
let language = "en";

/** The language that a visitor gets who has chosen none. */
export function preferred() {
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** Load a language's strings and put them into the page. */
export async function speak(chosen) {
  language = chosen in LANGUAGES ? chosen : preferred();
  strings = await get(`assets/playground/strings.${language}.json`);
  document.documentElement.lang = language === "zh" ? "zh-Hans" : language;
  document.title = `Pellucid – ${t("tagline")}`;
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-t-label]")) {
    node.setAttribute("aria-label", t(node.dataset.tLabel));
  }
}

export const spoken = () => language;

/** The string of that key, `{name}` replaced by the value of that name. A key without a string is shown as it is. */
export function t(key, values = {}) {
  return (strings[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** The string of a key, or what the service says, where a language leaves that to it. */
export const tElse = (key, said) => strings[key] ?? said;

/** The string of a key for a kind of output, where there is one, or else that of the key. */
export const tOf = (key, kind, values) => t(`${key}.${kind}` in strings ? `${key}.${kind}` : key, values);

const minus = (text) => text.replaceAll("-", "−");

/** A probability as a percentage. */
export const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

/** A number to about three significant digits. */
export function number(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.001) return minus(value.toExponential(1));
  return minus(value.toFixed(size < 0.1 ? 4 : size < 10 ? 3 : 1));
}

/** The same with its sign. */
export const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));
