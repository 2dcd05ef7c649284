// The map of a network: its blocks from input to output, in stages of one resolution. Layers are chosen on it.

import {PIXELS, methodsAt, shape} from "./controls.js";
import {byId, fill, h} from "./dom.js";
import {t} from "./i18n.js";
import {canvas} from "./pictures.js";
import {cover} from "./stage.js";

const LARGEST = 24;  // layers of a block: a module with more is split into its parts
const OCTAVES = 4;   // of resolution, or of channels, from the largest block to the smallest, at least
const FEWEST = 12;   // blocks of a map, where the network has so many parts
const KEYS = {ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity};

const opened = new Map();   // by map: whether the layers inside a block are shown
const touched = new Map();  // by map: the block that was chosen last

/** The names of the modules that a layer is in, the outermost first. */
const around = (name) => [...name.matchAll(/(?<=.)[./]/g)].map(({index}) => name.slice(0, index));

/**
 * Blocks `{name, main, layers}` in order of execution. A block is the outermost module with at most LARGEST layers, or
 * operations in a row that keep the shape. `main` is its output.
 */
export function blocksOf(layers) {
  const split = new Set();
  const blockOf = ({name}) => around(name).find((module) => !split.has(module)) ?? name;
  let groups;
  for (;;) {
    groups = Map.groupBy(layers, blockOf);
    const [name, inside] = [...groups].filter(([key, all]) => all.some((each) => each.name !== key))
      .reduce((most, each) => (each[1].length > (most[1]?.length ?? 0) ? each : most), []);
    if (!name || (inside.length <= LARGEST && groups.size >= FEWEST)) break;
    split.add(name);
  }
  const blocks = [];
  for (const [name, inside] of groups) {
    const last = blocks.at(-1);
    const main = inside.find((each) => each.name === name) ?? inside.at(-1);
    const step = inside.length === 1 && groups.size > FEWEST && !/conv|linear/i.test(main.kind);
    if (last && split.has(name)) last.layers.push(...inside);  // the output of a module that was split
    else if (step && last?.loose && String(last.main.shape) === String(main.shape)) {
      last.layers.push(main);
      last.main = main;
    } else blocks.push({name, main, layers: inside, loose: inside.length === 1});
  }
  return blocks;
}

/** Runs of blocks of one resolution. */
function stagesOf(blocks) {
  const stages = [];
  for (const block of blocks) {
    const size = sizeOf(block.main);
    if (stages.at(-1)?.size !== size) stages.push({size, blocks: []});
    stages.at(-1).blocks.push(block);
  }
  return stages;
}

const sideOf = ({shape: [, height, width]}) => Math.sqrt(height * width);
const sizeOf = ({shape: [, height, width]}) => `${height} × ${width}`;

/** From 1 for the largest of `values` down to 0 for the least, by the logarithm; four octaves at least. */
function along(values) {
  const logs = values.map(Math.log2);
  const most = Math.max(...logs);
  const span = Math.max(OCTAVES, most - Math.min(...logs));
  return (value) => 1 - (most - Math.log2(value)) / span;
}

/**
 * The map as elements. `picked` are names of layers, `onPick(name)` hears of a choice; with `multiple` a choice adds a
 * layer or takes it away, which is `onPick(name, names)` of all layers of its block. `input` is offered as a layer of
 * its own where it can be explained.
 */
export function networkMap({key, label, detail, photo, picked, multiple = false, input = false, onPick}) {
  const blocks = blocksOf(detail.layers);
  const tall = along(blocks.map(({main}) => sideOf(main)));
  const wide = along(blocks.map(({main}) => main.shape[0]));
  const widthOf = ({main}) => 1 + 1.5 * wide(main.shape[0]);
  const gated = new Set([...detail.gates, ...detail.spatial_gates].map(({after}) => after));
  const attends = detail.method_details.some(({needs}) => needs.startsWith("attention"));
  const has = (block, test) => block.layers.some(test);
  const isPicked = ({name}) => picked.includes(name);
  const chosen = blocks.findLast((block) => has(block, isPicked));
  const inner = blocks.find(({name}) => multiple && name === touched.get(`${key}/${detail.name}`)) ?? chosen;

  const telling = h("p", {class: "told-layer"});
  const tell = (name) => fill(telling, said(name));
  const tags = (names) => [
    names.includes(detail.default_layer.name) && t("map.default"),
    names.some((name) => gated.has(name)) && t("map.gate"),
  ].filter(Boolean);

  function said(name) {
    if (name === PIXELS && input) return [h("code", {}, name), ` ${t("control.pixels")}`];
    const block = blocks.find(({layers}) => layers.some((layer) => layer.name === name));
    const layer = block?.layers.find((each) => each.name === name);
    if (!layer) return [h("code", {}, name)];
    const names = layer === block.main ? block.layers.map((each) => each.name) : [name];
    const facts = [layer.kind, t("map.channels", {channels: layer.shape[0], size: sizeOf(layer)}), ...tags(names)];
    return [h("code", {}, name), ` ${facts.join(" · ")}`];
  }

  /** The layer that stands for a block: one that is picked, the default one, or its output. */
  const standsFor = ({layers, main}) =>
    layers.findLast(isPicked) ?? (multiple ? main : layers.find(({name}) => name === detail.default_layer.name) ?? main);

  const choose = (option) => {
    const {name, block} = option.dataset;
    if (block) touched.set(`${key}/${detail.name}`, block);
    const all = blocks.find((each) => each.name === block)?.layers.map((each) => each.name);
    onPick(name, all ?? [name]);
  };

  function option(name, props, ...inside) {
    const text = said(name).map((part) => part.textContent ?? part).join("");
    return h("div", {
      role: "option", tabindex: -1, "data-name": name, "aria-label": text, ...props,
      "aria-selected": String(Boolean(props["aria-selected"])),
    }, ...inside);
  }

  function blockOption(block) {
    const layer = standsFor(block);
    const bar = h("span", {class: "bar-block"});
    const node = option(layer.name, {
      class: [
        "block", has(block, ({name}) => gated.has(name)) && "has-gate",
        has(block, ({name}) => name === detail.default_layer.name) && "is-default",
        attends && has(block, ({name}) => /attn|attention/i.test(name)) && "has-attention",
      ].filter(Boolean).join(" "),
      "data-key": `${key}-${block.name}`, "data-block": block.name, "aria-selected": has(block, isPicked),
    }, bar);
    node.style.setProperty("--tall", tall(sideOf(block.main)).toFixed(3));
    node.style.setProperty("--wide", widthOf(block).toFixed(3));
    return node;
  }

  function listbox(name, ...inside) {
    const node = h("div", {role: "listbox", "aria-label": name, "aria-multiselectable": (multiple || picked.length > 1) && "true"}, ...inside);
    const options = [...node.querySelectorAll("[role=option]")];
    const first = options.find((each) => each.ariaSelected === "true") ?? options[0];
    if (first) first.tabIndex = 0;
    const optionOf = (event) => event.target.closest("[role=option]");
    node.addEventListener("click", (event) => optionOf(event) && choose(optionOf(event)));
    node.addEventListener("pointerover", (event) => optionOf(event) && tell(optionOf(event).dataset.name));
    node.addEventListener("pointerleave", () => tell(shown));
    node.addEventListener("focusin", (event) => tell(optionOf(event).dataset.name));
    node.addEventListener("focusout", () => tell(shown));
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") choose(event.target);
      else if (event.key in KEYS) {
        const at = Math.min(Math.max(options.indexOf(event.target) + KEYS[event.key], 0), options.length - 1);
        for (const each of options) each.tabIndex = each === options[at] ? 0 : -1;
        options[at].focus();
      } else return;
      event.preventDefault();
    });
    return node;
  }

  function inside(block) {
    const prefix = block.loose ? "" : `${block.name}.`;
    const usual = [block.main.name, detail.default_layer.name];
    const aside = block.layers.some((layer) => isPicked(layer) && !usual.includes(layer.name));
    const node = h(
      "details", {class: "inside", open: opened.get(key) ?? aside},
      h("summary", {"data-key": `${key}-inside`}, t("map.inside", {block: block.name, count: block.layers.length})),
      listbox(t("map.inside", {block: block.name, count: block.layers.length}), block.layers.map((layer) => option(
        layer.name, {class: "inner", "data-key": `${key}-inner-${layer.name}`, "aria-selected": isPicked(layer)},
        h("code", {}, layer.name.startsWith(prefix) ? layer.name.slice(prefix.length) : layer.name),
        h("span", {class: "muted"}, shape(layer.shape)),
      ))),
    );
    node.addEventListener("toggle", () => opened.set(key, node.open));
    return node;
  }

  const shown = picked.at(-1) ?? "";
  tell(shown);
  const thumb = h("span", {class: "bar-block thumb"}, thumbnail(photo));
  const start = input
    ? option(PIXELS, {class: "block pixels", "data-key": `${key}-pixels`, "aria-selected": picked.includes(PIXELS)}, thumb)
    : h("div", {class: "block pixels", "aria-hidden": "true"}, thumb);
  const sizeLabel = (text) => h("span", {class: "size", "aria-hidden": "true"}, text);
  const [, height, width] = detail.input;
  return h(
    "div", {class: "network"},
    h("div", {class: "flow"}, listbox(
      label,
      h("div", {class: "stage input", role: input ? "group" : "presentation", "aria-label": input && t("map.input")},
        h("div", {class: "row"}, start), sizeLabel(`${height} × ${width}`)),
      stagesOf(blocks).map(({size, blocks: all}) => {
        const node = h(
          "div", {class: "stage", role: "group", "aria-label": t(attends ? "map.tokens" : "map.stage", {size})},
          h("div", {class: "row"}, all.map(blockOption)), sizeLabel(attends ? t("map.tokens", {size}) : size),
        );
        node.style.setProperty("--wide", all.reduce((sum, block) => sum + widthOf(block), 0).toFixed(3));
        return node;
      }),
    )),
    telling,
    h("ul", {class: "map-keys", "aria-hidden": "true"}, [
      ["is-picked", t("map.key.picked")], !multiple && ["is-default", t("map.key.default")],
      gated.size && ["has-gate", t("map.gate")], attends && ["has-attention", t("map.key.attention")],
    ].filter(Boolean).map(([name, text]) => h("li", {class: name}, text))),
    inner?.layers.length > 1 && inside(inner),
  );
}

/** At which size of the input the catalogue's sizes are: a photograph that is seen whole has others. */
export const sizes = ({input: [, height, width]}) => t("map.sizes", {size: `${height}\u00a0×\u00a0${width}`});

/** The photograph, small, as the network's input. */
function thumbnail(photo) {
  const made = canvas(96, 96);
  if (photo?.bitmap) cover(made, photo.bitmap);
  return made;
}

/** The map on which the heat map's layer is chosen. */
export function renderNetworkMap({photo, detail, state, result, update}) {
  const {method_details: methods, layers} = detail;
  const method = methods.find(({name}) => name === (state.method || detail.methods[0]));
  const layer = result.grad_cam?.[0].layer || state.layer || method?.default_layer || detail.default_layer.name;
  const input = methods.some(({at}) => at.includes(PIXELS)) && !layers.some(({name}) => name === PIXELS);
  const onPick = (name) => {
    if (name === layer) return;
    const still = methodsAt(name, detail);
    update({layer: name, ...(still.some((each) => each.name === method?.name) ? {} : {method: still[0].name})});
  };
  const raw = result.grad_cam?.[0].raw;
  const root = byId("network-map");
  root.className = "panel";
  const open = root.querySelector(".help")?.open;
  fill(
    root,
    h("h2", {}, t("map.title")),
    h("p", {class: "muted"}, t("map.lead"), " ", sizes(detail), raw && ` ${t("map.positions", {
      size: `${raw.values.length}\u00a0×\u00a0${raw.values[0].length}`,
    })}`),
    layers.length || input
      ? networkMap({key: "map", label: t("map.choose"), detail, photo, picked: layer.split(" + "), input, onPick})
      : h("p", {class: "muted"}, detail.default_layer.why),
    h("details", {class: "help", open}, h("summary", {"data-key": "map-help"}, t("help")), h("p", {}, t("map.help"))),
  );
}
