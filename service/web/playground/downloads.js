// Files of a view: what the service itself draws and counts, under names that say what they are.

import {askFile, sameTarget} from "./api.js";
import {byId, fill, h} from "./dom.js";
import {t} from "./i18n.js";

const PNG = "image/png";
const SVG = "image/svg+xml";
// By name: the route, the media type, the end of the file's name, and options beside the view's own.
const FILES = {
  figure: ["v1/explain", PNG, "figure.png"],
  "figure.dark": ["v1/explain", PNG, "figure-dark.png", {theme: "dark"}],
  "figure.svg": ["v1/explain", SVG, "figure.svg"],
  "figure.svg.dark": ["v1/explain", SVG, "figure-dark.svg", {theme: "dark"}],
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
  const names = Object.keys(FILES).filter((name) => (cam || name === "answer") && !name.includes("."));
  const button = (name, about, kind) => h(
    "button",
    {type: "button", class: kind, "data-key": `download-${name}`, "aria-describedby": `about-${about}`,
      onclick: (event) => save(view, cam, name, event.currentTarget)},
    t(`download.${name}`),
  );
  const others = (name) => Object.keys(FILES).filter((each) => each.startsWith(`${name}.`));
  fill(body, h("ul", {class: "downloads"}, names.map((name) => h(
    "li", {}, button(name, name, "button plain"), h("div", {},
      h("span", {class: "muted", id: `about-${name}`}, t(`download.${name}.what`)),
      others(name).flatMap((other) => [" ", button(other, name, "link")])),
  ))));
}

async function save(view, cam, name, button) {
  const [route, accept, ending, more = {}] = FILES[name];
  const again = () => save(view, cam, name, button);
  button.setAttribute("aria-busy", "true");
  await view.attempt(async () => {
    const query = route === "v1/explain" ? shown(view, name, more) : queryOf(view, cam, more);
    const blob = await askFile(route, view.photo, query, view.reference, accept);
    const link = h("a", {href: URL.createObjectURL(blob), download: nameOf(view, cam, ending)});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    byId("status").textContent = t("download.done", {name: link.download});
  }, {again});
  button.removeAttribute("aria-busy");
}

/** The view's own question about the classes, the layer and the method on the screen: what is left out is chosen anew. */
function shown({query, result}, name, more) {
  const asked = new URLSearchParams([...query, ...Object.entries(more)]);
  if (name.startsWith("figure")) {  // it shows no feature maps
    const parts = (asked.get("include") ?? "").split(",");
    asked.set("include", parts.filter((part) => part !== "feature_maps").join(","));
  }
  const cams = result.grad_cam ?? [];
  if (cams.length && !cams[0].fused) {  // the query names a method that chooses its layers
    asked.set("layer", cams[0].layer);
    asked.set("method", cams[0].method);
  }
  const classes = cams.map(({target}) => target).filter(({similarity}) => similarity === undefined);
  if (classes.length) asked.delete("target");
  for (const {index} of classes) asked.append("target", index);
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
