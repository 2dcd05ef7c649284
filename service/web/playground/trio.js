// Two maps side by side on one scale, and their difference on its own: blue against and red for, over what each is of.

import {h} from "./dom.js";
import {number, signed, t, tOf} from "./i18n.js";
import {ramp, smoothLevels, tinted} from "./pictures.js";
import {enlarger, overBox} from "./stage.js";

const COLOURS = "coolwarm";
const SIDE = 256;

// A map at the pixels has more values than a function may have arguments.
const least = (values) => values.reduce((one, other) => Math.min(one, other));
const most = (values) => values.reduce((one, other) => Math.max(one, other));

/** The end of a scale that holds all values of these maps. */
export const reachOf = (maps) => most(maps.flat(2).map(Math.abs));

/** Why maps that are stretched, of a method that fuses layers, are not drawn on one scale. */
export const stretched = () => h("p", {class: "muted"}, t("compare.fused"));

/**
 * Figures of two maps `{values, box, caption, key, photo}` whose scale ends at `reach`, and of their difference, which
 * has a scale of its own, or a small one would be invisible; and their legend, in the words of `kind`. `photo` is a
 * bitmap that is not on the stage; its map can't be shown there.
 */
export function trio(maps, reach, kind) {
  const figure = ({values, box, caption, key, photo}, index) => {
    const own = index === 2;
    const end = own ? reachOf([values]) || reach : reach;
    const note = t(own ? "compare.own" : "compare.scale");
    const legend = {colours: COLOURS, isSigned: true, low: signed(-end), high: signed(end), note};
    const [x0, y0, x1, y1] = box;
    const height = Math.round((SIDE * (y1 - y0)) / (x1 - x0));
    const pixels = tinted(smoothLevels(values, true, SIDE, height, end), COLOURS, true);
    const shown = overBox(pixels, 0.8, photo && {photo, box});
    shown.setAttribute("aria-hidden", "true");
    const flat = values.flat();
    const range = t("compare.range", {min: number(least(flat)), max: number(most(flat))});
    const props = {"data-key": key, "aria-label": t("enlarge", {what: `${caption}, ${range}`})};
    return h(
      "figure", {},
      photo ? h("div", {class: "picture"}, shown) : enlarger({pixels, caption, legend}, props, shown),
      h("figcaption", {}, caption, h("span", {class: "muted"}, range, own && h("br"), own && t("compare.own"))),
    );
  };
  return [
    h("div", {class: "trio"}, maps.map(figure)),
    h("div", {class: "legend"}, ramp(COLOURS, true),
      h("p", {class: "ends"}, h("span", {}, tOf("compare.against", kind, {value: signed(-reach)})),
        h("span", {}, tOf("compare.for", kind, {value: signed(reach)})))),
  ];
}
