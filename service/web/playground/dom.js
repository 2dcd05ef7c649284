// Elements without a framework.

const SVG = "http://www.w3.org/2000/svg";

function make(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

/** An HTML element: `on…` props are listeners, the others attributes (none for null, undefined and false). */
export const h = (tag, props = {}, ...children) => make(document.createElement(tag), props, children);

/** The same for SVG. */
export const svg = (tag, props = {}, ...children) => make(document.createElementNS(SVG, tag), props, children);

/** Buttons of which one is pressed: `options` are [value, key, text]; `onChoose(value)` hears of a choice. */
export const segments = (props, options, chosen, onChoose) => h(
  "div", {class: "segments", role: "group", ...props}, options.map(([value, key, text]) => h("button", {
    type: "button", "data-key": key, "aria-pressed": String(value === chosen), onclick: () => onChoose(value),
  }, text)),
);

/** Replace what is in `root`; the focus stays on the element of the same `data-key`, or else in `root`. */
export function fill(root, ...nodes) {
  const focused = document.activeElement;
  const had = focused !== root && root.contains(focused);
  root.replaceChildren(...nodes.flat().filter(Boolean));
  if (!had) return;
  const key = CSS.escape(focused.dataset.key ?? "");
  const kept = key && root.querySelector(`[data-key="${key}"]:not(:disabled)`);
  if (!kept) root.tabIndex = -1;
  (kept || root).focus({preventScroll: true});
}

export const byId = (id) => document.getElementById(id);
