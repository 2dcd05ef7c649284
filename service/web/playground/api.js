// The public API, as any other caller would use it.

import {viewOf} from "./state.js";

/** An answer that is no success: a problem+json, or no answer at all. */
export class Problem extends Error {
  constructor({type, title, detail, status, request_id, allowed}) {
    super(title);
    this.status = status;
    this.slug = type?.split(":").at(-1) ?? "";
    // another try, or a key, would not help
    this.refused = status >= 400 && status < 500 && ![401, 408, 429].includes(status);
    this.ofOption = ["unknown-name", "unknown-model", "invalid-option", "unexplainable"].includes(this.slug);
    this.detail = detail;
    this.allowed = allowed ?? [];
    this.requestId = request_id;
  }
}

let key = "";
try {
  key = sessionStorage.getItem("key") ?? "";
} catch {
  // storage may be forbidden: the key is asked for again after a reload
}

/** Send this API key from now on, until the tab is closed. */
export function useKey(given) {
  key = given;
  try {
    sessionStorage.setItem("key", key);
  } catch {
    // as above
  }
}

export const hasKey = () => key !== "";

const running = new Map();

/** A signal for a request that makes every earlier one of the same `kind` needless, which is aborted. */
export function supersede(kind) {
  running.get(kind)?.abort();
  const controller = new AbortController();
  running.set(kind, controller);
  return controller.signal;
}

/** An address of the service, also behind a path prefix: relative to the page. */
export const address = (path) => new URL(path, document.baseURI).href;

async function answered(path, options = {}) {
  let reply;
  try {
    reply = await fetch(address(path), {...options, headers: {...options.headers, ...(key && {"X-API-Key": key})}});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({title: "unreachable"});
  }
  if (reply.ok) return reply;
  if (!reply.headers.get("content-type")?.includes("problem+json")) {
    throw new Problem({title: `${reply.status} ${reply.statusText}`, status: reply.status});
  }
  throw new Problem(await reply.json());
}

export const get = async (path) => (await answered(path)).json();

export const getBlob = async (path) => (await answered(path)).blob();

/**
 * Ask a route about one photograph, or two to compare, beside a `reference` if there is one: its result, the stages
 * that Server-Timing names, and the milliseconds it took.
 */
export async function ask(route, photos, query, signal, reference = null) {
  const started = performance.now();
  const reply = await posted(route, photos, query, reference, {signal});
  const {model, request_id, results, compare} = await reply.json();
  return {
    model,
    requestId: request_id,
    result: results?.[0],
    compare,
    stages: stages(reply.headers.get("server-timing") ?? ""),
    took: performance.now() - started,
  };
}

/** The same reply as a file of a media type: a picture, numbers, or the JSON as it is. */
export async function askFile(route, photo, query, reference, accept) {
  return (await posted(route, photo, query, reference, {headers: {Accept: accept}})).blob();
}

function posted(route, photos, query, reference, options) {
  const form = new FormData();
  for (const photo of [photos].flat()) form.append("images", photo.blob, photo.name);
  if (reference) form.append("reference", reference.blob, reference.name);
  return answered(`${route}?${query}`, {...options, method: "POST", body: form});
}

/** `decode;dur=6.3, infer;desc="batch of 1";dur=11` as [{name, ms, note}]. */
export function stages(header) {
  return header.split(/,\s*(?=[\w-]+(?:;|$))/).filter(Boolean).map((entry) => ({
    name: entry.split(";")[0].trim(),
    ms: Number(/;dur=([\d.]+)/.exec(entry)?.[1] ?? 0),
    note: /;desc="([^"]*)"/.exec(entry)?.[1] ?? "",
  }));
}

export const STRETCH = "percentile";  // of a feature map's colours: a few extreme values don't hide the others

/** The query of /v1/explain for a view. What is left to the service's default is left out. */
export function explainQuery(state, detail, reference) {
  const layer = state.layer || detail.default_layer.name;
  const explains = layer && (reference || detail.output.kind !== "embedding");
  const parts = ["predictions", layer && "attention", explains && "grad_cam", detail.layers.length && "feature_maps"];
  const query = new URLSearchParams({include: parts.filter(Boolean).join(",")});
  for (const name of [
    "model", "layer", "method", "against", "region", "direction", "signed", "colormap", "layers", "top_k", "detail",
  ]) {
    if (state[name]) query.set(name, state[name]);
  }
  if (detail.layers.length) query.set("scale", STRETCH);
  const view = viewOf(state, detail);
  if (view !== "centre") query.set("view", view);
  if (state.sort === "effect" && detail.gates.length) query.set("effects", "true");
  for (const target of [state.target, state.versus]) if (target) query.append("target", target);
  return query;
}

/** The options that say again what a map is of. */
export function sameTarget({target}, state, names = ["against", "region", "direction"]) {
  if (target.similarity !== undefined) return [];
  return [["target", target.index], ...names.filter((name) => state[name]).map((name) => [name, state[name]])];
}

/** The options that say again how a photograph is seen. */
export const seen = ({query}) => [...query].filter(([name]) => ["view", "detail"].includes(name));

/** A query with what a reader of it can take: commas and spaces. */
export const readable = (query) => query.toString().replaceAll("%2C", ",");
