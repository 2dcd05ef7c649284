// Pictures of a reply as pixels, and numbers as colours.

import {get} from "./api.js";

// As in pellucid/render/compose.py, under the same names.
const BEGIN = 0.25;
const OPAQUE_FROM = 0.75;
const BRIGHT = {turbo: [0.15, 0.9], jet: [0.15, 0.86]};
const LINE = 0.8;
const EDGE = 0.6;
const LINE_GRID = 96;

let tables = {};

/** Load the service's own colour maps: 256 colours each. */
export async function loadColours() {
  const packed = await get("assets/playground/colormaps.json");
  tables = Object.fromEntries(Object.entries(packed).map(([name, hex]) => [
    name, Uint8Array.from(hex.match(/../g), (byte) => parseInt(byte, 16)),
  ]));
}

export const colourMaps = () => Object.keys(tables);

export function canvas(width, height) {
  const made = document.createElement("canvas");
  made.width = width;
  made.height = height;
  return made;
}

/** A PICTURE of the API as a bitmap. */
export function bitmap(picture) {
  const text = atob(picture.data);
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], {type: picture.media_type}), {colorSpaceConversion: "none"});
}

/** A grey PICTURE as {width, height, levels}. */
export async function greys(picture) {
  const {width, height} = picture;
  const context = canvas(width, height).getContext("2d", {willReadFrequently: true});
  context.drawImage(await bitmap(picture), 0, 0);
  const {data} = context.getImageData(0, 0, width, height);
  return {width, height, levels: Uint8Array.from({length: width * height}, (_, pixel) => data[4 * pixel])};
}

/** The colours of an overlay, as the API chooses them. */
export const overlayColours = ({colormap, signed}) => colormap || (signed ? "coolwarm" : "turbo");

/** Levels from 0 to 255 in the colours of a map. */
export const coloured = (grid, name) => painted(grid, (level) => [3 * level, 255], name);

/** Levels in the colours of an overlay, as the service draws it: the more evidence, the more opaque. */
export const tinted = (grid, name, isSigned) => painted(grid, (level) => tint(level, isSigned, name), name);

/** Where the colour of a level is in a table, and its opacity: see `tints` of pellucid/render/compose.py. */
function tint(level, isSigned, name) {
  const strength = isSigned ? Math.max(-1, (level - 128) / 127) : level / 255;
  const above = Math.max(0, Math.abs(strength) - BEGIN);
  const [start, end] = BRIGHT[name] ?? [0, 1];
  const seen = above / (1 - BEGIN);
  const shown = isSigned ? (1 + (Math.sign(strength) * (1 + seen)) / 2) / 2 : start + (end - start) * seen;
  const ramp = Math.min(1, above / (OPAQUE_FROM - BEGIN));
  return [3 * Math.round(255 * shown), Math.round(255 * ramp * ramp * (3 - 2 * ramp))];
}

/**
 * The line around the strongest evidence of `levels`, as the service draws it: see `_outline` there. `thick` is the
 * width of its white, in pixels of the levels.
 */
export function outlined({width, height, levels}, isSigned, thick) {
  const [middle, scale] = isSigned ? [128, 127] : [0, 255];
  const strong = (at) => Math.abs(levels[at] - middle) >= LINE * scale;
  const shrink = LINE_GRID / Math.max(width, height);
  const [columns, rows] = [width, height].map((side) => Math.max(1, Math.round(side * shrink)));
  const along = (n, cells, side) => Math.floor(((n + 0.5) * side) / cells);
  const weak = Array.from({length: columns * rows}, (_, n) => !strong(
    along(Math.floor(n / columns), rows, height) * width + along(n % columns, columns, width),
  ));
  const not = (mask) => mask.map((each) => !each);
  let wide = grown(not(grown(weak, columns, 1)), columns, 2);
  let narrow = [];
  let count = -1;
  // Morphological reconstruction: a wide region keeps its narrow parts.
  while (count !== (count = (narrow = wide.map((each, n) => !each && !weak[n])).filter(Boolean).length)) {
    wide = grown(wide.map((each, n) => each && !weak[n]), columns, 2).map((each, n) => each || wide[n]);
  }
  // Two where the region may lie, and one where a line along a cut has room.
  const other = grown(narrow, columns, 1);
  const room = grown(wide, columns, 1).map((each, n) => each + (wide[n] && !other[n]));
  const across = Array.from({length: width}, (_, x) => along(x, width, columns));
  const near = new Uint8Array(levels.length);
  const region = new Float32Array(levels.length);
  for (let y = 0, at = 0; y < height; y++) {
    const row = along(y, height, rows) * columns;
    for (let x = 0; x < width; x++, at++) {
      near[at] = room[row + across[x]];
      region[at] = near[at] === 2 && strong(at);
    }
  }
  const reach = 1.5 * thick;
  const edge = blurred(blurred(region, near, width, 1, reach), near, height, width, reach);
  const image = new ImageData(width, height);
  for (let at = 0; at < edge.length; at++) {
    if (!near[at]) continue;
    const distance = Math.abs(edge[at] - 0.5) * (2 * reach + 1);
    const clear = (from) => 1 - Math.min(1, Math.max(0, from + 0.5 - distance));
    const light = 1 - clear(thick / 2);
    const opacity = 1 - (1 - EDGE * (1 - clear(reach))) * (1 - light);
    const grey = opacity && (255 * light) / opacity;
    for (let n = 0; n < 3; n++) image.data[4 * at + n] = grey;
    image.data[4 * at + 3] = 255 * opacity;
  }
  const made = canvas(width, height);
  made.getContext("2d").putImageData(image, 0, 0);
  return made;
}

/** A mask in rows of `columns`, grown by `steps` to all eight sides: along its rows, then along its columns. */
function grown(mask, columns, steps) {
  const along = (values, length, step) => values.map((_, at) => {
    const place = Math.floor(at / step) % length;
    for (let n = Math.max(-steps, -place); n <= Math.min(steps, length - 1 - place); n++) {
      if (values[at + n * step]) return true;
    }
    return false;
  });
  return along(along(mask, columns, 1), mask.length / columns, columns);
}

/** Means over `radius` to both sides, along lines of `length` values that are `step` apart; only of those `near`. */
function blurred(values, near, length, step, radius) {
  const most = Math.ceil(radius);
  const weights = Array.from({length: 2 * most + 1}, (_, n) => Math.min(1, radius + 1 - Math.abs(n - most)));
  const means = new Float32Array(values.length);
  for (let at = 0; at < values.length; at++) {
    if (!near[at]) continue;
    const place = Math.floor(at / step) % length;
    let sum = 0;
    for (let n = -most; n <= most; n++) {
      const other = Math.min(Math.max(place + n, 0), length - 1);
      sum += weights[n + most] * values[at + (other - place) * step];
    }
    means[at] = sum / (2 * radius + 1);
  }
  return means;
}

function painted({width, height, levels}, colour, name) {
  const table = tables[name] ?? tables.turbo;
  const made = canvas(width, height);
  const image = new ImageData(width, height);
  const packed = Uint8Array.from(Array.from({length: 256}, (_, level) => {
    const [at, opacity] = colour(level);
    return [...table.subarray(at, at + 3), opacity];
  }).flat());
  const [colours, pixels] = [packed, image.data].map(({buffer}) => new Uint32Array(buffer));
  levels.forEach((level, pixel) => pixels[pixel] = colours[level]);
  made.getContext("2d").putImageData(image, 0, 0);
  return made;
}

/** The levels of a map for an overlay, smooth. Of signed ones 128 is 0, and `reach` the end of the scale. */
export function smoothLevels(values, isSigned, width, height, reach = 0) {
  const kept = isSigned ? values : values.map((row) => row.map((value) => Math.max(0, value)));
  const across = taps(width, values[0].length);
  const rows = kept.map((row) => across.map(([first, weights]) => weighed(weights, row, first)));
  const magnitudes = kept.flat().map(Math.abs);
  const most = magnitudes.reduce((one, other) => Math.max(one, other));
  const least = isSigned ? 0 : magnitudes.reduce((one, other) => Math.min(one, other));
  const span = (reach || most) - least;
  const [middle, scale] = isSigned ? [128, 127] : [0, 255];
  const levels = new Uint8ClampedArray(width * height);  // it rounds
  taps(height, values.length).forEach(([first, weights], y) => {
    for (let x = 0; x < width; x++) {
      let value = 0;
      for (let n = 0; n < weights.length; n++) value += weights[n] * rows[first + n][x];
      levels[y * width + x] = middle + (span > 0 ? (scale * (value - least)) / span : 0);
    }
  });
  return {width, height, levels};
}

const weighed = (weights, row, first) => weights.reduce((sum, weight, n) => sum + weight * row[first + n], 0);

/** Cubic interpolation of `cells` over `length` pixels: for each pixel the first cell that counts, and the weights. */
function taps(length, cells) {
  const scale = Math.max(1, cells / length);
  return Array.from({length}, (_, pixel) => {
    const centre = ((pixel + 0.5) * cells) / length;
    const first = Math.max(0, Math.floor(centre - 2 * scale + 0.5));
    const last = Math.min(cells, Math.floor(centre + 2 * scale + 0.5));
    const weights = Array.from({length: last - first}, (_, n) => cubic(Math.abs(first + n + 0.5 - centre) / scale));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return [first, weights.map((weight) => weight / total)];
  });
}

/** Keys' kernel, a = -0.5. */
const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((2.5 - 0.5 * x) * x - 4) * x + 2 : 0);

/** A map's rows enlarged between pixel centres, as the service does it. */
export function enlarged(values, width, height) {
  const across = Array.from({length: width}, (_, x) => between(x, width, values[0].length));
  return Array.from({length: height}, (_, y) => {
    const [top, bottom, down] = between(y, height, values.length);
    return across.map(([left, right, along]) => {
      const upper = values[top][left] * (1 - along) + values[top][right] * along;
      const lower = values[bottom][left] * (1 - along) + values[bottom][right] * along;
      return upper * (1 - down) + lower * down;
    });
  });
}

/** Of `cells` over `length` pixels: the two whose centres a pixel lies between, and how far it is along. */
function between(pixel, length, cells) {
  const at = Math.min(Math.max(((pixel + 0.5) * cells) / length - 0.5, 0), cells - 1);
  const first = Math.floor(at);
  return [first, Math.min(first + 1, cells - 1), at - first];
}

/** The colours of a map from one end to the other; those of an overlay where it is known whether that is signed. */
export function ramp(name, isSigned) {
  const grid = {width: 256, height: 1, levels: Uint8Array.from({length: 256}, (_, level) => level)};
  const made = isSigned === undefined ? coloured(grid, name) : tinted(grid, name, isSigned);
  made.className = "ramp";
  made.setAttribute("aria-hidden", "true");
  return made;
}

/** The tiles of a grid as one canvas each, in the order of its channels. */
export async function tiles(featureMap) {
  const {columns, width, height, gap, left, top} = featureMap.tiles;
  const whole = await bitmap(featureMap.grid);
  return featureMap.channels.map((_, n) => {
    const made = canvas(width, height);
    const x = left + (n % columns) * (width + gap);
    const y = top + Math.floor(n / columns) * (height + gap);
    made.getContext("2d").drawImage(whole, x, y, width, height, 0, 0, width, height);
    made.setAttribute("aria-hidden", "true");
    return made;
  });
}
