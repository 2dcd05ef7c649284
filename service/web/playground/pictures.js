// Pictures of a reply as pixels, and numbers as colours.

import {get} from "./api.js";

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
export const tinted = (grid, name, isSigned) => painted(grid, (level) => tint(level, isSigned), name);

/** Where the colour of a level is in a table, and its opacity: see `tints` of pellucid/render/compose.py. */
function tint(level, isSigned) {
  const strength = isSigned ? Math.max(-1, (level - 128) / 127) : level / 255;
  const shown = isSigned ? Math.round(127.5 + 63.75 * (strength < 0 ? strength - 1 : strength + 1)) : level;
  const ramp = Math.min(1, 2 * Math.abs(strength));
  return [3 * shown, Math.round(255 * ramp * ramp * (3 - 2 * ramp))];
}

function painted({width, height, levels}, colour, name) {
  const table = tables[name] ?? tables.turbo;
  const made = canvas(width, height);
  const image = new ImageData(width, height);
  const packed = Array.from({length: 256}, (_, level) => {
    const [at, opacity] = colour(level);
    return [...table.subarray(at, at + 3), opacity];
  });
  levels.forEach((level, pixel) => image.data.set(packed[level], 4 * pixel));
  made.getContext("2d").putImageData(image, 0, 0);
  return made;
}

/** The levels of a map for an overlay, smooth. Of signed ones 128 is 0, and `reach` the end of the scale. */
export function smoothLevels(values, isSigned, width, height, reach = 0) {
  const kept = isSigned ? values : values.map((row) => row.map((value) => Math.max(0, value)));
  const across = taps(width, values[0].length);
  const rows = kept.map((row) => across.map(([first, weights]) => weighed(weights, (n) => row[first + n])));
  const magnitudes = kept.flat().map(Math.abs);
  const most = magnitudes.reduce((one, other) => Math.max(one, other));
  const least = isSigned ? 0 : magnitudes.reduce((one, other) => Math.min(one, other));
  const span = (reach || most) - least;
  const [middle, scale] = isSigned ? [128, 127] : [0, 255];
  const levels = new Uint8ClampedArray(width * height);  // it rounds
  taps(height, values.length).forEach(([first, weights], y) => {
    for (let x = 0; x < width; x++) {
      const value = weighed(weights, (n) => rows[first + n][x]);
      levels[y * width + x] = middle + (span > 0 ? (scale * (value - least)) / span : 0);
    }
  });
  return {width, height, levels};
}

const weighed = (weights, value) => weights.reduce((sum, weight, n) => sum + weight * value(n), 0);

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
