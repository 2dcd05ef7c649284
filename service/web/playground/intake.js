// How a photograph comes in: chosen, dropped, pasted, or one of the shipped ones.

import {getBlob} from "./api.js";
import {byId, fill, h} from "./dom.js";
import {t} from "./i18n.js";

export const SAMPLES = ["cat", "coffee", "rocket"];

export const sampleFile = (name) => `assets/samples/${name}.jpg`;

/** One of the shipped photographs, as if a visitor had chosen it. */
export async function loadSample(name) {
  return {blob: await getBlob(sampleFile(name)), name: `${name}.jpg`, sample: name};
}

/** Listen for photographs: `onSample(name)` and `onPhoto({blob, name, leftOut})` are told. */
export function listen(onSample, onPhoto) {
  const take = (files) => {
    const [file, ...others] = files;
    if (file) onPhoto({blob: file, name: file.name, leftOut: others.length});
  };
  for (const input of document.querySelectorAll("[data-choose]")) {
    input.addEventListener("change", () => {
      take(input.files);
      input.value = "";  // the same file may be chosen again
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
    take(event.dataTransfer.files);
  });
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
      !photo.sample && h("span", {class: "muted"}, t("source.own")),
      Boolean(photo.leftOut) && h("span", {class: "muted"}, t("source.left_out", {count: photo.leftOut})),
    );
  }
}
