// How photographs come in: chosen, dropped, pasted, a folder of them, or one of the shipped ones.

import {getBlob} from "./api.js";
import {byId, fill, h} from "./dom.js";
import {spoken, t} from "./i18n.js";
import {forget, isKept} from "./own.js";

const MOST = 32;  // photographs at once: what a strip can show, and a server answer soon

export const SAMPLES = ["cat", "coffee", "rocket"];

export const sampleFile = (name) => `assets/samples/${name}.jpg`;

/** One of the shipped photographs, as if a visitor had chosen it. */
export async function loadSample(name) {
  return {blob: await getBlob(sampleFile(name)), name: `${name}.jpg`, sample: name};
}

/**
 * Listen for photographs: `onSample(name)` is told of a shipped one, `onPhotos(photos, notes)` of the visitor's own.
 * `notes` say what was left out, and why, in the language of the moment.
 */
export function listen(onSample, onPhotos) {
  const take = (files, ofFolder = false) => {
    const given = [...files].filter(({name}) => !ofFolder || !name.startsWith("."));
    // a folder holds other things as well; what was chosen one by one is shown, if only as what can't be read
    const found = ofFolder ? given.filter(({type}) => !type || type.startsWith("image/")) : given;
    const photos = found.slice(0, MOST).map((file) => ({blob: file, name: file.name}));
    const notes = [
      found.length > MOST && (() => t("gallery.too_many", {count: found.length - MOST, most: MOST})),
      found.length < given.length && (() => t("gallery.no_pictures", {count: given.length - found.length})),
      !photos.length && ofFolder && (() => t("gallery.nothing")),
    ].filter(Boolean);
    if (photos.length || notes.length) onPhotos(photos, notes);
  };
  for (const input of document.querySelectorAll("[data-choose]")) {
    input.multiple = true;
    input.addEventListener("change", () => {
      take(input.files);
      input.value = "";  // the same file may be chosen again
    });
  }
  for (const input of document.querySelectorAll("[data-choose-folder]")) {
    input.addEventListener("change", () => {
      take([...input.files].sort(byName), true);
      input.value = "";
    });
  }
  for (const list of document.querySelectorAll("[data-samples]")) {
    list.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) onSample(button.dataset.key);
    });
  }
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) {
      event.preventDefault();
      take(event.clipboardData.files);
    }
  });
  let depth = 0;  // of elements under the pointer that the drag has entered
  const dragging = (change, event) => {
    if (event && !event.dataTransfer.types.includes("Files")) return;
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("over", depth > 0);
  };
  document.addEventListener("dragenter", (event) => dragging(1, event));
  document.addEventListener("dragleave", (event) => dragging(-1, event));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    dragging(-depth);
    const {files, items} = event.dataTransfer;
    const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (entries.some((entry) => entry.isDirectory)) filesIn(entries).then((found) => take(found, true));
    else take(files);
  });
}

const byName = (one, other) => one.name.localeCompare(other.name, undefined, {numeric: true});

/** All files of these entries, and of the folders among them, by name. */
async function filesIn(entries) {
  const found = await Promise.all(entries.map(async (entry) => {
    if (entry.isFile) return new Promise((resolve) => { entry.file(resolve, () => resolve([])); });
    const reader = entry.createReader();
    const inside = [];
    for (let some = [null]; some.length; inside.push(...some)) {  // a reader gives a hundred at a time
      some = await new Promise((resolve) => { reader.readEntries(resolve, () => resolve([])); });
    }
    return filesIn(inside);
  }));
  return found.flat().sort(byName);
}

/**
 * The choice of another picture: a shipped one, save the one `not` to choose, or one of the visitor's, `own` if there
 * is one. `key` tells its elements from those of other choices.
 */
export function renderPicker({key, label, not, own, chosen, name, onSample, onFile, onRemove}) {
  const take = (event) => {
    const [file] = event.target.files;
    if (file) onFile(file);
  };
  return h(
    "div", {class: "act"},
    h("ul", {class: "samples small", "aria-label": label}, SAMPLES.filter((each) => each !== not).map((each) => h(
      "li", {}, h("button", {
        type: "button", "data-key": `${key}-${each}`, "aria-pressed": String(!own && chosen === each),
        "aria-label": name(t(`sample.${each}`)), onclick: () => onSample(each),
      }, h("img", {src: sampleFile(each), alt: "", width: 240, height: 160})),
    ))),
    h("label", {class: "button plain"},
      h("input", {type: "file", class: "unseen", accept: "image/*", "data-key": `${key}-file`, onchange: take}),
      h("span", {}, t("picker.choose"))),
    own && h("span", {class: "muted"}, own.name),
    own && h("button", {type: "button", class: "quiet", "data-key": `${key}-none`, onclick: onRemove},
      t("picker.remove", {name: own.name})),
  );
}

/** Forget all photographs of the visitor's, and begin anew. */
async function leave() {
  await forget();
  location.replace(`${location.pathname}?lang=${spoken()}`);
}

/** Draw the shipped photographs, the current one marked, and the name of what is shown. */
export function renderIntake(photo) {
  for (const list of document.querySelectorAll("[data-samples]")) {
    const small = list.classList.contains("small");
    fill(list, SAMPLES.map((name) => h("li", {}, h(
      "button",
      {type: "button", "data-key": name, "aria-pressed": small ? String(photo?.sample === name) : null,
        "aria-label": small ? t(`sample.${name}`) : null},
      h("img", {src: sampleFile(name), alt: "", width: 240, height: 160}),
      !small && h("span", {}, t(`sample.${name}`)),
    ))));
  }
  if (photo) {
    fill(
      byId("source-name"),
      h("strong", {}, photo.sample ? t(`sample.${photo.sample}`) : photo.name),
      !photo.sample && h("span", {class: "muted"}, t(isKept(photo) ? "source.kept" : "source.own"), " ",
        h("button", {type: "button", class: "link", "data-key": "forget", onclick: leave}, t("source.forget"))),
    );
  }
}
