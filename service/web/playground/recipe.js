// How a view was made: the exact request, to be pasted, and where the time went.

import {address, hasKey, readable} from "./api.js";
import {byId, fill, h} from "./dom.js";
import {t} from "./i18n.js";
import {sampleFile} from "./intake.js";

const body = byId("recipe").querySelector(".body");

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** `images=@NAME` for curl's -F, which reads a name with these characters only between double quotes. */
const part = (field, name) => `${field}=@${/[",;\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name}`;

/** The files of a view's request by the name of their part. */
const filesOf = ({photo, reference}) => Object.entries({images: photo, reference}).filter(([, file]) => file);

/** The request as lines for a shell; a shipped photograph is fetched first, the visitor's own lies in the folder. */
export function asCurl(view) {
  const {query} = view;
  const files = filesOf(view);
  const fetched = files.map(([, {sample}]) => (sample ? `curl -sO ${quoted(address(sampleFile(sample)))}\n` : ""));
  const parts = files.map(([field, {name}]) => `-F ${quoted(part(field, name))}`);
  const url = `${address("v1/explain")}?${readable(query)}`;
  const key = hasKey() ? "  -H 'X-API-Key: YOUR_KEY' \\\n" : "";
  return `${fetched.join("")}curl ${parts.join(" ")} \\\n${key}  ${quoted(url)}`;
}

/** The same in Python. JSON's strings are Python's, too. */
export function asPython(view) {
  const {detail, query, result} = view;
  const values = Map.groupBy(query, ([name]) => name);
  const params = [...values].map(([name, pairs]) => {
    const texts = pairs.map(([, value]) => JSON.stringify(value));
    return `    ${JSON.stringify(name)}: ${texts.length > 1 ? `[${texts.join(", ")}]` : texts[0]},`;
  });
  const named = filesOf(view).map(([field, file]) => [field === "images" ? "photograph" : field, field, file]);
  const read = named.map(([name, , {sample, name: file}]) => (sample
    ? `${name} = httpx.get(${JSON.stringify(address(sampleFile(sample)))}).content`
    : `${name} = open(${JSON.stringify(file)}, "rb").read()`));
  const files = named.map(([name, field, file]) => `"${field}": (${JSON.stringify(file.name)}, ${name})`);
  return [
    "import httpx",
    "",
    ...read,
    "params = {",
    ...params,
    "}",
    "reply = httpx.post(",
    `    ${JSON.stringify(address("v1/explain"))},`,
    `    params=params, files={${files.join(", ")}}, timeout=60,`,
    ...(hasKey() ? ["    headers={\"X-API-Key\": \"YOUR_KEY\"},"] : []),
    ")",
    "reply.raise_for_status()",
    "(result,) = reply.json()[\"results\"]",
    ...printed(detail.output.kind, result),
  ].join("\n");
}

/** Lines of Python that print what was found, in its own terms. */
function printed(kind, {grad_cam: cams}) {
  if (kind === "embedding") {
    return [cams ? "print(result[\"grad_cam\"][0][\"target\"][\"similarity\"])" : "print(result[\"embedding\"])"];
  }
  const found = {
    linear: "{prediction['value']:8.4g} {prediction.get('unit', '')}",
    dense: "{prediction['share']:6.1%} of the picture",
  }[kind] ?? "{prediction['probability']:6.1%}";
  return [
    "for prediction in result[\"predictions\"]:",
    `    print(f"${found}  {prediction['label']}")`,
  ];
}

/** Draw the recipe of a view. */
export function renderRecipe(view) {
  const {detail, reply, result} = view;
  const own = filesOf(view).filter(([, {sample}]) => !sample).map(([, {name}]) => name);
  const cam = result.grad_cam?.[0];
  const facts = [
    ["recipe.model", `${detail.name} – ${detail.title}`],
    ["recipe.engine", detail.engine],
    cam && ["recipe.layer", `${cam.layer}, ${cam.method}`],
    ["recipe.image", `${result.image.format}, ${result.image.width} × ${result.image.height}`],
    ["recipe.request", reply.requestId],
  ].filter(Boolean);
  fill(
    body,
    h("dl", {class: "facts"}, facts.map(([name, value]) => h("div", {}, h("dt", {}, t(name)), h("dd", {}, value)))),
    timings(reply),
    code("curl", asCurl(view)),
    code("Python", asPython(view)),
    h("p", {class: "muted"}, own.length ? t("recipe.own", {name: own.join(", ")}) : t("recipe.sample")),
    hasKey() && h("p", {class: "muted"}, t("recipe.key")),
  );
}

function timings({stages, took}) {
  const total = stages.reduce((sum, {ms}) => sum + ms, 0);
  const shown = stages.filter(({ms}) => ms > 0);
  const bar = h("div", {class: "timings", "aria-hidden": "true"}, shown.map(({name, ms}) => {
    const piece = h("span", {class: `stage-${name}`});
    piece.style.setProperty("flex-grow", ms / total);
    return piece;
  }));
  const list = h("ul", {class: "stages"}, shown.map(({name, ms, note}) => h(
    "li", {class: `stage-${name}`, title: note || null}, t(`stage.${name}`), " ", h("span", {}, `${ms.toFixed(1)} ms`),
  )));
  const summary = t("recipe.took", {total: total.toFixed(0), took: took.toFixed(0)});
  return h("div", {}, h("p", {class: "muted"}, summary), bar, list);
}

function code(name, text) {
  const block = h("pre", {}, h("code", {}, text));
  const button = h("button", {
    type: "button", class: "quiet copy", "data-key": `copy-${name}`, "aria-label": t("copy.what", {name}),
    onclick: async () => {
      await copy(text, block);
      button.textContent = t("copied");
      byId("status").textContent = t("copied");
      setTimeout(() => { button.textContent = t("copy"); }, 2000);
    },
  }, t("copy"));
  return h("div", {class: "code"}, h("header", {}, h("h3", {}, name), button), block);
}

/** Over plain HTTP from another machine a browser has no clipboard: there the old way is the only one. */
async function copy(text, block) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  getSelection().selectAllChildren(block);
  document.execCommand("copy");
}
