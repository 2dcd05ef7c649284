// What went wrong, in the visitor's language, and what may be done about it.

import {Problem, useKey} from "./api.js";
import {byId, fill, h} from "./dom.js";
import {t, tElse} from "./i18n.js";

const FEW = 12;  // allowed values that are listed
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
    const [title, detail, original] = wordsOf(error);
    show(
      h("strong", {}, name && !unreachable && !error.ofOption ? t("problem.file", {name, title}) : title),
      detail && h("p", {}, detail),
      original && h("details", {class: "muted"}, h("summary", {}, t("detail.original")), h("p", {lang: "en"}, original)),
      error.requestId && h("p", {class: "muted"}, t("problem.request", {id: error.requestId})),
      (unreachable || PASSING.includes(error.status)) &&
        h("button", {type: "button", class: "link", onclick: again}, t("again")),
      error.status === 401 && keyField(again),
    );
    return error;
  }
}

/** Say something that no request failed of. */
export const tell = (sentences) => show(...sentences.map((sentence) => h("p", {}, sentence)));

const show = (...parts) => fill(
  byId("problem"), ...parts,
  h("button", {type: "button", class: "quiet dismiss", "aria-label": t("dismiss"), onclick: dismiss}, "×"),
);

/**
 * A problem's title, its detail, and the service's own English words where the detail is not these. A language that has
 * words for a kind of problem (`error.SLUG`, `detail.SLUG`) says with them what the refusal names.
 */
export function wordsOf(error) {
  if (error.message === "unreachable") return [t("unreachable"), t("unreachable.detail")];
  const title = tElse(`error.${error.slug}`);
  if (!title) return [error.message, error.detail];
  const {detail = "", allowed} = error;
  const named = {
    option: /^`?(\w+)`?: /.exec(detail)?.[1],
    value: /'([^']+)'/.exec(detail)?.[1],
    guess: /Did you mean (.+?)\?/.exec(detail)?.[1].replaceAll(" or ", ", "),
    allowed: allowed.length <= FEW ? allowed.join(", ") : "",
    many: allowed.length > FEW ? allowed.length : "",
  };
  const said = Object.entries(named).filter(([, value]) => value)
    .map(([name, value]) => t(`detail.${name}`, {[name]: value}));
  return [title, [t(`detail.${error.slug}`), ...(error.refused ? said : [])].join(""), error.refused && detail];
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
