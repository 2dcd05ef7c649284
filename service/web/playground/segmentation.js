// A segmentation: the class at each position in colours of its own, and the region that is explained.

import {fill, h, segments} from "./dom.js";
import {t} from "./i18n.js";
import {canvas, greys} from "./pictures.js";
import {enlarger, onRegion, overBox} from "./stage.js";

// Okabe and Ito's colours, which are told apart with any colour vision, and after these hues far from one another.
const FIRST = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
const GOLDEN = 137.508;
const OPACITY = 0.65;

/** The colour of a class, the same in every picture. */
export const colourOf = (index) =>
  FIRST[index] ?? `hsl(${((index * GOLDEN) % 360).toFixed(0)} 65% ${[42, 58, 72][index % 3]}%)`;

/** A class's colour as a swatch; the background has none. */
export function swatch(index, {output}) {
  const made = h("span", {class: "swatch", "aria-hidden": "true"});
  if (index !== output.background) made.style.setProperty("background", colourOf(index));
  return made;
}

function rgb(colour) {
  const context = canvas(1, 1).getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data;
}

/** The segmentation of a result as a canvas; the background is transparent. */
async function painted({mask, classes}, {output}) {
  const {width, height, levels} = await greys(mask);
  const table = new Map(
    classes.filter(({index}) => index !== output.background).map(({level, index}) => [level, rgb(colourOf(index))]),
  );
  const image = new ImageData(width, height);
  levels.forEach((level, pixel) => {
    const colour = table.get(level);
    if (colour) image.data.set(colour, 4 * pixel);
  });
  const made = canvas(width, height);
  made.getContext("2d").putImageData(image, 0, 0);
  return made;
}

/** The segmentation beside the heat map, and the classes that no row of the predictions names. */
export async function renderSegmentation(root, {detail, result, update}) {
  const {classes} = result.segmentation;
  const pixels = await painted(result.segmentation, detail);
  const caption = t("segmentation.caption");
  const shown = overBox(pixels, OPACITY);
  shown.setAttribute("aria-hidden", "true");
  const rest = classes.filter(({index}) => !result.predictions.some((each) => each.index === index));
  const legend = {
    swatches: classes.map(({index, label}) => h("li", {}, swatch(index, detail), label)),
    note: t("segmentation.note"),
  };
  fill(
    root,
    enlarger({pixels, squares: true, caption, legend}, {"data-key": "segmentation"}, shown),
    rest.length > 0 && h("ul", {class: "chips", "aria-label": t("segmentation.rest")}, rest.map(({index, label}) => h(
      "li", {}, h("button", {
        type: "button", class: "rest", "data-key": `rest-${index}`, onclick: () => update({target: String(index)}),
      }, swatch(index, detail), label),
    ))),
  );
}

/** Draw the choice of the region; a click on the photograph is a point, a drag a box. */
export function renderRegion(root, {detail, result, state, update}) {
  const cam = result.grad_cam?.[0];
  onRegion(cam?.region ? (region) => update({region}) : null, state.region);
  if (!cam?.region) return;
  const typed = (event) => update({region: event.target.value.replace(/\s/g, "")});
  const place = /^[\d.]+,/.test(state.region) ? state.region : "";
  fill(
    root,
    segments({"aria-label": t("region")}, [
      ["", "region-class", t("region.class")], ["picture", "region-picture", t("region.picture")],
    ], state.region, (region) => update({region})),
    h("label", {class: "control"}, h("span", {}, t("region.place")), h("input", {
      "data-key": "region-place", autocomplete: "off", spellcheck: "false", value: place,
      placeholder: t("region.example"), onchange: typed,
    })),
    h("p", {class: "muted"}, t("region.drag"), " ", t("region.positions", {count: cam.region.positions})),
  );
}
