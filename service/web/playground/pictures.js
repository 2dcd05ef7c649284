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
export function coloured({width, height, levels}, name) {
  const table = tables[name] ?? tables.turbo;
  const made = canvas(width, height);
  const image = new ImageData(width, height);
  levels.forEach((level, pixel) => {
    image.data.set(table.subarray(3 * level, 3 * level + 3), 4 * pixel);
    image.data[4 * pixel + 3] = 255;
  });
  made.getContext("2d").putImageData(image, 0, 0);
  return made;
}

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

/** A map's values, from -reach to reach, as levels of the enlarged map. */
export function signedLevels(values, reach, width, height) {
  const level = (value) => Math.round(127.5 + (reach > 0 ? (127.5 * value) / reach : 0));
  return {width, height, levels: Uint8Array.from(enlarged(values, width, height).flat(), level)};
}

/** Of `cells` over `length` pixels: the two whose centres a pixel lies between, and how far it is along. */
function between(pixel, length, cells) {
  const at = Math.min(Math.max(((pixel + 0.5) * cells) / length - 0.5, 0), cells - 1);
  const first = Math.floor(at);
  return [first, Math.min(first + 1, cells - 1), at - first];
}

/** The colours of a map from one end to the other. */
export function ramp(name) {
  const made = coloured({width: 256, height: 1, levels: Uint8Array.from({length: 256}, (_, level) => level)}, name);
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
