// What is served: the networks, everything in them that has a name, and the colour maps.

import {get} from "./api.js";
import {loadColours} from "./pictures.js";

let models = [];
const details = new Map();

export const served = () => models;

/** The network that answers requests that name none. */
export const usual = () => models.find((model) => model.default).name;

/** What is known already of a network (the usual one for an empty name), or undefined. */
export const known = (name) => details.get(name || models.find((model) => model.default)?.name);

/** Everything in a network that has a name; asked for once. */
export async function detailOf(name) {
  const wanted = name || usual();
  if (!details.has(wanted)) details.set(wanted, await get(`v1/models/${encodeURIComponent(wanted)}`));
  return details.get(wanted);
}

let loaded;

/** What every view needs to know: the networks and the colour maps. Asked for once, again only after a failure. */
export function catalogue() {
  loaded ??= Promise.all([get("v1/models"), loadColours()]).then(async ([{models: found}]) => {
    models = found;
    await detailOf("");
  }).catch((error) => {
    loaded = undefined;
    throw error;
  });
  return loaded;
}
