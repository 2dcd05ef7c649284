// What a view shows is in its address, so that it can be shared: all but the visitor's own photograph.

const NAMES = [
  "sample", "model", "target", "versus", "layer", "method", "signed", "colormap", "top_k", "layers", "sort", "lang",
];

/** The state that the address holds; a name that it lacks is an empty string. */
export function read() {
  const given = new URLSearchParams(location.search);
  const state = Object.fromEntries(NAMES.map((name) => [name, given.get(name) ?? ""]));
  if (!state.target) state.versus = "";
  return state;
}

/**
 * Put the state into the address: as a step that "back" undoes, or in place of the last. `own`: the photograph is the
 * visitor's, and not in the state.
 */
export function write(state, {step, own}) {
  const query = new URLSearchParams();
  for (const name of NAMES) if (state[name]) query.set(name, state[name]);
  // commas stay readable: they are legal in a query
  const text = query.toString().replaceAll("%2C", ",");
  const address = text ? `?${text}` : location.pathname;
  if (address === (location.search || location.pathname)) return;
  history[step ? "pushState" : "replaceState"]({own}, "", address);
}
