// What went wrong, in the service's words, and what may be done about it.

import {Problem, useKey} from "./api.js";
import {byId, fill, h} from "./dom.js";
import {t} from "./i18n.js";

const PASSING = [429, 500, 502, 503, 504];  // what may be gone when it is asked again

/**
 * Run `work`; a problem is shown, and what was superseded is nobody's concern. The problem, if it did not end well.
 * `again` is offered where another try may help; `keeps`: what was said before stays; `name` is the file it is about.
 */
export async function attempt(work, {again = () => attempt(work), keeps = false, name = ""} = {}) {
  if (!keeps) fill(byId("problem"));
  try {
    await work();
    return null;
  } catch (error) {
    if (error.name === "AbortError") return error;
    if (!(error instanceof Problem)) throw error;
    const unreachable = error.message === "unreachable";
    const [title, detail] = unreachable ? [t("unreachable"), t("unreachable.detail")] : words(error);
    fill(
      byId("problem"),
      h("strong", {}, name && error.refused ? t("problem.file", {name, title}) : title),
      detail && h("p", {lang: unreachable ? null : "en"}, detail),
      error.requestId && h("p", {class: "muted"}, t("problem.request", {id: error.requestId})),
      (unreachable || PASSING.includes(error.status)) &&
        h("button", {type: "button", class: "link", onclick: again}, t("again")),
      error.status === 401 && keyField(again),
      h("button", {type: "button", class: "quiet dismiss", "aria-label": t("dismiss"), onclick: dismiss}, "×"),
    );
    return error;
  }
}

/** The title in the visitor's language; the service's English detail where that says more: what is allowed, say. */
function words(error) {
  const key = `error.${error.slug}`;
  const title = t(key);
  return title === key ? [error.message, error.detail] : [title, error.refused && error.detail];
}

function dismiss() {
  fill(byId("problem"));
  byId("main").focus({preventScroll: true});
}

/** A form for the API key that the service asks for; `again` runs with it. */
function keyField(again) {
  const visible = "[!-~]+";  // what a header can carry
  const field = h("input", {type: "password", required: true, pattern: visible, autocomplete: "off"});
  const submit = (event) => {
    event.preventDefault();
    useKey(field.value);
    again();
  };
  return h("form", {class: "control", onsubmit: submit}, h("label", {}, t("key"), field), h("button", {class: "button plain"}, t("key.use")));
}
