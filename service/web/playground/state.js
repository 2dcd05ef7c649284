// What a view shows is in its address, so that it can be shared: all but the visitor's own photograph.

const OPTIONS = [
  "model", "target", "versus", "against", "region", "direction", "reference", "view", "detail", "layer", "method",
  "signed", "colormap", "top_k", "layers", "sort",
];
const ASIDES = ["trust", "gate", "scale", "rank", "beside", "beside_model", "several", "channel", "box"];  // what is asked beside the view
const LOOKS = ["tab", "show", "opacity", "channels", "lang", ...ASIDES];
const NAMES = ["sample", ...OPTIONS, ...LOOKS];

/** The part of a state that no view depends on: how an answer is looked at, and what is asked beside it. */
export const looks = (state) => Object.fromEntries(LOOKS.map((name) => [name, state[name]]));

/** Whether a state leaves every option of the request to the service. */
export const isPlain = (state) => OPTIONS.every((name) => !state[name]);

/** A state without the options that a refusal quotes; without all, where it quotes none of them. */
export function without(state, detail) {
  const quoted = (name) => [state[name], ...state[name].split(",")].some((value) => detail?.includes(`'${value}'`));
  const set = OPTIONS.filter((name) => state[name]);
  const bad = set.some(quoted) ? set.filter(quoted) : set;
  const rest = {...state, ...Object.fromEntries(bad.map((name) => [name, ""]))};
  return rest.target ? rest : {...rest, versus: ""};
}

/**
 * The state after a change. What was asked beside the view goes where it would mean nothing in the next: trials, which
 * cost, with every question; channels with their layer.
 */
export function changed(state, patch) {
  const next = {...state, trust: "", ...patch};
  if (next.against && next.against === next.target) next.against = "";
  if (!("layer" in patch && !state.gate) && !("model" in patch) && !("sample" in patch)) return next;
  return {...next, gate: "", scale: "", rank: ""};
}

/** The state for another photograph: the classes and channels are chosen anew, and a place in the last one is none. */
export const another = (state, sample) => changed(state, {
  sample, target: "", versus: "", against: "", channels: "", beside: "", box: "",
  region: /^[\d.]+,/.test(state.region) ? "" : state.region,
});

/** Whether a network can explain a whole photograph. A segmentation of one size sees it in tiles, which are not explained. */
export const seesWhole = ({whole, output}) => !whole.tile || output.kind !== "dense";

/** How the network sees a photograph unless the visitor chose: whole, where it can. */
export const viewOf = ({view}, detail) => view || (seesWhole(detail) ? "whole" : "centre");

/** `3:0.5,40:0` as a map of 0.5 and 0 by channel. */
export function factorsOf(text) {
  const pairs = text.split(",").map((pair) => /^(\d{1,5}):(\d{1,3}(?:\.\d{1,6})?)$/.exec(pair)).filter(Boolean);
  return new Map(pairs.map(([, channel, factor]) => [Number(channel), Number(factor)]));
}

/** `head:3,stem:0` as a map of 3 and 0 by name. */
export function channelsOf(text) {
  const pairs = text.split(",").map((pair) => /^(.+):(\d{1,6})$/.exec(pair)).filter(Boolean);
  return new Map(pairs.map(([, key, channel]) => [key, Number(channel)]));
}

/** The state that the address holds; a name that it lacks is an empty string. */
export function read() {
  const given = new URLSearchParams(location.search);
  const state = Object.fromEntries(NAMES.map((name) => [name, given.get(name) ?? ""]));
  if (!state.target) state.versus = "";
  return state;
}

/** The address of a state. */
export function addressOf(state) {
  const query = new URLSearchParams();
  for (const name of NAMES) if (state[name]) query.set(name, state[name]);
  // what is legal in a query stays readable
  const text = query.toString().replaceAll("%2C", ",").replaceAll("%3A", ":").replaceAll("%2F", "/");
  return text ? `?${text}` : location.pathname;
}

/**
 * Put the state into the address: as a step that "back" undoes, or in place of the last. `own`: the id of the visitor's
 * photograph, which is not in the state.
 */
export function write(state, {step, own}) {
  const address = addressOf(state);
  if (address === (location.search || location.pathname) && own === (history.state?.own ?? "")) return;
  history[step ? "pushState" : "replaceState"]({own}, "", address);
}
