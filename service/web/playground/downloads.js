// Files of a view: what the service itself draws and counts, under names that say what they are.

import {askFile, sameTarget} from "./api.js";
import {byId, fill, h} from "./dom.js";
import {t} from "./i18n.js";

const PNG = "image/png";
// By name: the route, the media type, the end of the file's name, and options beside the view's own.
const FILES = {
  figure: ["v1/explain", PNG, "figure.png"],
  overlay: ["v1/grad-cam", PNG, "overlay.png", {overlay: "true"}],
  mask: ["v1/grad-cam", PNG, "mask.png", {fit: "source"}],
  numbers: ["v1/grad-cam", "application/x-npz", "map.npz"],
  answer: ["v1/explain", "application/json", "answer.json"],
};
const OPTIONS = ["model", "layer", "method", "signed", "view", "detail"];

const body = byId("download").querySelector(".body");

/** Offer the files of a view; where it has no map, the answer alone. */
export function renderDownloads(view) {
  const cam = view.result.grad_cam?.[0];
  const names = Object.keys(FILES).filter((name) => cam || name === "answer");
  fill(body, h("ul", {class: "downloads"}, names.map((name) => h("li", {}, h(
    "button",
    {type: "button", class: "button plain", "data-key": `download-${name}`, "aria-describedby": `about-${name}`,
      onclick: (event) => save(view, cam, name, event.currentTarget)},
    t(`download.${name}`),
  ), h("span", {class: "muted", id: `about-${name}`}, t(`download.${name}.what`))))));
}

async function save(view, cam, name, button) {
  const [route, accept, ending, more = {}] = FILES[name];
  const again = () => save(view, cam, name, button);
  button.setAttribute("aria-busy", "true");
  await view.attempt(async () => {
    const query = name === "figure" ? drawn(view) : route === "v1/explain" ? view.query : queryOf(view, cam, more);
    const blob = await askFile(route, view.photo, query, view.reference, accept);
    const link = h("a", {href: URL.createObjectURL(blob), download: nameOf(view, cam, ending)});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    byId("status").textContent = t("download.done", {name: link.download});
  }, {again});
  button.removeAttribute("aria-busy");
}

/** What a figure shows of a view: no feature maps. */
function drawn({query}) {
  const asked = new URLSearchParams(query);
  const parts = (asked.get("include") ?? "").split(",");
  asked.set("include", parts.filter((part) => part !== "feature_maps").join(","));
  return asked;
}

/** The map on the stage, alone. */
function queryOf({query, state}, cam, more) {
  const asked = new URLSearchParams(more);
  for (const name of OPTIONS) if (query.has(name)) asked.set(name, query.get(name));
  for (const [name, value] of sameTarget(cam, state)) asked.set(name, value);
  if (more.overlay && state.colormap) asked.set("colormap", state.colormap);
  if (more.overlay && state.opacity) asked.set("alpha", Number(state.opacity) / 100);
  return asked;
}

/** `cat-lite0-head-grad-cam-mask.png`: the photograph, the network, the layer, the method, and what it is. */
export function nameOf({detail, photo}, cam, ending) {
  const parts = [photo.name.replace(/\.\w{1,5}$/, ""), detail.name, cam?.layer, cam?.method, ending];
  return parts.filter(Boolean).join("-").replace(/[\s\\/:*?"<>|]+/g, "_");
}
