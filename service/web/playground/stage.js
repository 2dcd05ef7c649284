// The photograph with something over it: the heat map, or one channel's feature map.

import {byId, fill, h} from "./dom.js";
import {number, signed, t, tOf} from "./i18n.js";
import {canvas, coloured, outlined, ramp, smoothLevels, tinted} from "./pictures.js";
import {kindOf, nameOf} from "./scores.js";

const LONGEST = 1600;  // pixels of the canvas: sharp on a dense screen, quick to draw again while the slider moves
const SHORTEST = 448;  // pixels that small photographs are enlarged to
const SMOOTH = 800;  // pixels that a map is enlarged to as the service does it; what is left is done by the canvas
const SOLID_FROM = 0.6;  // the opacity from which the line around the strongest evidence is solid, as in the service
const OUTSIDE = 0.55;  // how much is dimmed what the network did not see, as in the service's own overlay

const figure = byId("stage");
const picture = figure.querySelector("canvas");
const close = byId("close");
const slider = byId("opacity");
const views = byId("views");

let photo = null;     // a bitmap, or null where the browser can't show the file
let size = [3, 2];    // of the source, in its own pixels
let heat = null;      // {cam, mask, tinted, line, colours}
let extra = null;     // {pixels, caption, legend, from}: what lies over the photograph in place of the heat map
let show = "overlay";
let told = () => {};
let place = null;     // is told of a region that was pointed at
let marked = [];      // the region that is explained: [x, y] or [x0, y0, x1, y1] in the source's pixels
let start = null;     // where a drag began
let before = [];      // what was marked then
let lent = null;      // to whom the pointing belongs, while another has it: [listener, region]

const OPACITY = slider.value;  // as the page comes
const SHOWS = [...views.children].map((button) => button.dataset.show);

/** Be told of every choice of view and opacity, as the address holds them. */
export function onLook(listener) {
  told = listener;
}

const tell = () => told({
  show: show === SHOWS[0] ? "" : show, opacity: slider.value === OPACITY ? "" : slider.value,
});

/**
 * Mark a region, `x,y` or `x0,y0,x1,y1` in the source's pixels, and let another be pointed at, which `listener` is told
 * in the same form. Null ends it.
 */
export function onRegion(listener, region = "") {
  if (lent) lent = [listener, region];
  else point(listener, region);
}

/** Let `listener` have the pointing, for a region of its own, until it is given back. */
export function lend(listener, region) {
  lent ??= [place, marked.join()];
  point(listener, region);
}

export function giveBack() {
  if (lent) point(...lent);
  lent = null;
}

function point(listener, region) {
  place = listener;
  marked = listener ? region.split(",").map(Number).filter(Number.isFinite) : [];
  picture.classList.toggle("pointing", Boolean(listener));
  paint();
}

/** Choose what is shown and the opacity that an address holds. */
export function wear(state) {
  show = SHOWS.includes(state.show) ? state.show : SHOWS[0];
  slider.value = /^\d+$/.test(state.opacity) ? state.opacity : OPACITY;
  draw();
}

/** The photograph alone; what was over the last one is gone. */
export function showPhoto(bitmap) {
  photo = bitmap;
  size = bitmap ? [bitmap.width, bitmap.height] : [3, 2];
  heat = extra = null;
  draw();
}

/** The heat map of an explanation, or null where there is none; `mask` is its mask's levels. */
export function showHeat(image, cam, mask, colours, isSigned) {
  size = [image.width, image.height];
  heat = cam && {cam, mask, isSigned, colours, ...overlaid(cam, colours, isSigned), grey: coloured(mask, "gray")};
  extra = null;
  draw();
}

/** The map of a CAM as the service draws it over a photograph, and the line around its strongest evidence. */
function overlaid({box: [x0, y0, x1, y1], raw}, colours, isSigned) {
  const scale = SMOOTH / Math.max(x1 - x0, y1 - y0);
  const [width, height] = [x1 - x0, y1 - y0].map((side) => Math.max(1, Math.round(side * scale)));
  const levels = smoothLevels(raw.values, isSigned, width, height);
  const line = outlined(levels, isSigned, Math.max(1, (Math.max(...size) * scale) / 450));
  return {tinted: tinted(levels, colours, isSigned), line};
}

/** Something else over the photograph's box until it is closed: see `extra`. `from` gets the focus back. */
function enlarge(shown) {
  extra = shown;
  if (show === "original") show = "overlay";
  tell();
  draw();
  const top = figure.getBoundingClientRect().top;
  if (top < 0 || top > innerHeight / 2) figure.scrollIntoView({block: "start"});
  close.focus({preventScroll: true});
}

/** A button that shows `inside`, and enlarges what `shown` says: see `extra`. */
export const enlarger = (shown, props, inside = shown.pixels) => h("button", {
  type: "button", class: "picture", "aria-label": t("enlarge", {what: shown.caption}), ...props,
  onclick: (event) => enlarge({...shown, from: event.currentTarget}),
}, inside);

function leave() {
  const back = extra?.from;
  extra = null;
  draw();
  if (back?.isConnected) back.focus();
}

/** Draw the texts again, in another language. */
export const redraw = () => draw();

/** Draw what the slider, the toggle and the data say. */
function draw() {
  for (const button of views.children) button.setAttribute("aria-pressed", String(button.dataset.show === show));
  slider.disabled = show !== "overlay";
  byId("opacity-value").textContent = `${slider.value} %`;
  slider.setAttribute("aria-valuetext", `${slider.value} %`);
  close.hidden = !extra;
  paint();
  describe();
}

function paint() {
  const longest = Math.max(...size);
  const scale = Math.min(LONGEST, Math.max(SHORTEST, longest)) / longest;  // small photographs are enlarged
  const [width, height] = size.map((side) => Math.max(1, Math.round(side * scale)));
  picture.parentElement.style.setProperty("--ratio", width / height);
  if (picture.width !== width || picture.height !== height) {
    picture.width = width;
    picture.height = height;
  }
  const context = picture.getContext("2d");
  context.globalAlpha = 1;
  context.imageSmoothingQuality = "high";
  if (photo) {
    context.drawImage(photo, 0, 0, width, height);
  } else {
    context.fillStyle = "#777";
    context.fillRect(0, 0, width, height);
  }
  if (!heat) return;
  const [x0, y0, x1, y1] = heat.cam.box.map((edge) => edge * scale);
  const box = [x0, y0, x1 - x0, y1 - y0];
  if (show !== "original") {
    context.globalAlpha = show === "mask" ? 1 : OUTSIDE;
    context.fillStyle = "#000";
    context.beginPath();
    context.rect(0, 0, width, height);
    context.rect(...box);
    context.fill("evenodd");
    context.globalAlpha = show === "mask" ? 1 : slider.value / 100;
    // a channel's squares stay squares: there is nothing between two of its values
    context.imageSmoothingEnabled = !extra?.squares;
    context.drawImage(extra?.pixels ?? (show === "mask" ? heat.grey : heat.tinted), ...box);
    context.imageSmoothingEnabled = true;
    if (show === "overlay" && !extra) {
      context.globalAlpha = Math.min(1, slider.value / 100 / SOLID_FROM);
      context.drawImage(heat.line, ...box);
    }
    context.globalAlpha = 1;
  }
  const line = Math.max(1, width / 400);
  for (const [colour, thick] of isWhole() ? [] : [["rgb(0 0 0 / 55%)", 3 * line], ["#fff", line]]) {
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.strokeRect(x0 + thick / 2, y0 + thick / 2, box[2] - thick, box[3] - thick);
  }
  mark(context, marked.map((edge) => edge * scale), line);
}

/** Whether the network saw all of the photograph. */
const isWhole = () => heat.cam.box.join() === [0, 0, ...size].join();

/** The region that is explained, or is being dragged: a ring around a point, or a box in dashes. */
function mark(context, [x0, y0, x1, y1], line) {
  if (y0 === undefined) return;
  for (const [colour, thick] of [["#000", 3 * line], ["#fff", 1.5 * line]]) {
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.beginPath();
    if (y1 === undefined) context.arc(x0, y0, 6 * line, 0, 2 * Math.PI);
    else context.rect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash(y1 === undefined || colour === "#000" ? [] : [6 * line, 4 * line]);
    context.stroke();
  }
  context.setLineDash([]);
}

function describe() {
  const ofClass = heat && captionOf(heat.cam);
  const caption = extra?.caption ?? ofClass ?? "";
  fill(byId("caption"), caption || " ");
  picture.setAttribute("aria-label", caption ? `${t(`view.${show}`)}: ${caption}` : t("stage.photo"));
  const legend = extra?.legend ?? (heat && ofHeat(heat));
  fill(byId("legend"), legend ? [
    legend.colours && (show === "mask" && !extra ? ramp("gray") : ramp(legend.colours, legend.isSigned)),
    legend.colours && h("p", {class: "ends"}, h("span", {}, legend.low), h("span", {}, legend.high)),
    legend.swatches && h("ul", {class: "swatches"}, legend.swatches),
    h("p", {class: "muted"}, legend.note, !extra && show === "overlay" && ` ${t("legend.line")}`, heat && !isWhole() && ` ${t("legend.frame")}`),
    legend.warning && h("p", {class: "notice", id: "all-negative"}, legend.warning),
  ] : []);
}

function captionOf({against, direction, layer, region, target}) {
  const kind = kindOf(target);
  const key = against ? "contrast" : direction === "down" ? "lowers" : region ? `region.${region.kind}` : kind;
  return tOf("stage.caption", key, {label: nameOf(target), other: against?.[0].label, layer});
}

function ofHeat({cam, colours, isSigned}) {
  const {min, max, all_negative: none} = cam.raw;
  const reach = Math.max(Math.abs(min), Math.abs(max));
  return {
    colours,
    isSigned,
    low: isSigned ? signed(-reach) : number(Math.max(0, min)),
    high: isSigned ? signed(reach) : number(Math.max(0, max)),
    note: tOf(isSigned ? "legend.signed" : min < 0 ? "legend.range" : "legend.positive", kindOf(cam.target), {
      min: number(min), max: number(max),
    }),
    warning: none && tOf(isSigned ? "legend.negative.signed" : "legend.negative", kindOf(cam.target), {
      label: nameOf(cam.target),
    }),
  };
}

/** A canvas with the part of a photograph (the one here, unless told) that the network saw, faint; `pixels` over it. */
export function overBox(pixels, opacity, under = {photo, box: heat.cam.box}) {
  const made = canvas(pixels.width, pixels.height);
  const context = made.getContext("2d");
  const [x0, y0, x1, y1] = under.box;
  if (under.photo) {
    context.filter = "grayscale(1)";
    context.drawImage(under.photo, x0, y0, x1 - x0, y1 - y0, 0, 0, made.width, made.height);
    context.filter = "none";
    context.globalAlpha = opacity;
  }
  context.drawImage(pixels, 0, 0);
  return made;
}

/** Draw a picture so that it fills a canvas. */
export function cover(made, bitmap) {
  const scale = Math.max(made.width / bitmap.width, made.height / bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  const context = made.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (made.width - width) / 2, (made.height - height) / 2, width, height);
}

/** Where a pointer is, in the source's pixels: the canvas is as large as its frame lets it be, and in its middle. */
function pointed(event) {
  const {left, top, width, height} = picture.getBoundingClientRect();
  const scale = Math.min(width / size[0], height / size[1]);
  const along = (at, edge, room, side) => Math.round(
    Math.min(Math.max((at - edge - (room - side * scale) / 2) / scale, 0), side - 1),
  );
  return [along(event.clientX, left, width, size[0]), along(event.clientY, top, height, size[1])];
}

/** A box between two corners; a point, where these are within a finger of each other. */
function between([x, y], [left, top]) {
  const finger = Math.max(...size) / 50;
  if (Math.abs(x - left) < finger || Math.abs(y - top) < finger) return [x, y];
  return [Math.min(x, left), Math.min(y, top), Math.max(x, left), Math.max(y, top)];
}

picture.addEventListener("pointerdown", (event) => {
  if (!place || extra || event.button !== 0) return;
  start = pointed(event);
  before = marked;
  picture.setPointerCapture(event.pointerId);
});
picture.addEventListener("pointermove", (event) => {
  if (!start) return;
  marked = between(start, pointed(event));
  paint();
});
picture.addEventListener("pointerup", (event) => {
  if (!start) return;
  const region = between(start, pointed(event));
  start = null;
  place?.(region.join(","));
});
picture.addEventListener("pointercancel", () => {
  start = null;
  marked = before;
  paint();
});
slider.addEventListener("input", draw);
slider.addEventListener("change", tell);  // once let go: browsers count what is written into an address
views.addEventListener("click", (event) => {
  show = event.target.closest("button")?.dataset.show ?? show;
  if (show !== "overlay") extra = null;
  tell();
  draw();
});
close.addEventListener("click", leave);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && extra) leave();
});
