// Several photographs at once: a strip of thumbnails, each with what is recognised in it; one of them is explained.

import {Problem, ask, supersede} from "./api.js";
import {byId, fill, h} from "./dom.js";
import {t} from "./i18n.js";
import {wordsOf} from "./problems.js";
import {nameOf, score} from "./scores.js";
import {cover} from "./stage.js";

const AT_ONCE = 2;  // requests, so that those of the visitor's choice need not wait for the strip's
const WIDTH = 144;  // of a thumbnail on a dense screen
const HEIGHT = 96;
const OPTIONS = ["model", "view", "detail"];

const root = h("div", {id: "gallery", class: "gallery", hidden: true});
byId("stage").before(root);

let photos = [];
let notes = [];          // what was left out, and why: functions, so that another language can say it
let chosen = null;
let choose = () => {};
let asked = "";          // the options that the answers below are answers to
const answers = new Map();  // of photographs: {top} or {problem}

/** Show these photographs, of which `notes` says what was left out; `onChoose(photo)` is told of a choice. */
export function showGallery(given, left, onChoose) {
  photos = given;
  notes = left;
  choose = onChoose;
  answers.clear();
  asked = "";
  supersede("gallery");
  draw();
}

/** Which photograph is explained: it is lit. Null where none of them is. */
export function light(photo) {
  chosen = photos.includes(photo) ? photo : null;
  draw();
}

/** Ask what is in each photograph, in the words of a view's network, unless that was answered already. */
export async function renderGallery(view) {
  const query = new URLSearchParams({top_k: 1});
  for (const name of OPTIONS) if (view.query.has(name)) query.set(name, view.query.get(name));
  if (query.toString() !== asked) answers.clear();
  asked = query.toString();
  answers.set(view.photo, {top: view.result.predictions[0]});  // the same answer, not another
  light(view.photo);
  const signal = supersede("gallery");
  if (photos.length < 2) return;
  const waiting = photos.filter((photo) => !answers.has(photo));
  const next = async () => {
    for (let photo = waiting.shift(); photo; photo = waiting.shift()) {
      try {
        const {result} = await ask("v1/predict", photo, query, signal);
        answers.set(photo, {top: result.predictions[0]});
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Problem)) throw error;
        answers.set(photo, {problem: error});
      }
      say(photo);
    }
  };
  await Promise.all(Array.from({length: AT_ONCE}, next));
}

const optionOf = (photo) => root.querySelector(`[data-key="photo-${photos.indexOf(photo)}"]`);

function draw() {
  root.hidden = photos.length < 2 && !notes.length;
  if (root.hidden) return fill(root);
  const list = photos.length > 1 && h(
    "ul", {class: "thumbnails", role: "listbox", "aria-label": t("gallery"), "aria-orientation": "horizontal",
      onkeydown: moved},
    photos.map((photo, at) => h(
      "li",
      {
        role: "option", "data-key": `photo-${at}`, "aria-selected": String(photo === chosen),
        tabindex: photo === (chosen ?? photos[0]) ? 0 : -1, onclick: () => choose(photo),
      },
      thumbnail(photo), h("span", {class: "best"}), h("span", {class: "file"}),
    )),
  );
  const place = root.querySelector(".thumbnails")?.scrollLeft ?? 0;
  fill(root, list, ...notes.map((note) => h("p", {class: "muted"}, note())));
  for (const photo of photos.length > 1 ? photos : []) say(photo);
  if (!list) return;
  list.scrollLeft = place;
  const lit = chosen && optionOf(chosen);
  if (!lit) return;
  const [left, right] = [lit.offsetLeft - list.offsetLeft, lit.offsetLeft - list.offsetLeft + lit.offsetWidth];
  if (left < place) list.scrollLeft = left;
  else if (right > place + list.clientWidth) list.scrollLeft = right - list.clientWidth;
}

/** What was found in a photograph, below its thumbnail. */
function say(photo) {
  const {top, problem} = answers.get(photo) ?? {};
  const option = optionOf(photo);
  if (!option) return;
  option.classList.toggle("failed", Boolean(problem));
  option.title = problem ? wordsOf(problem).filter(Boolean).join(": ") : photo.name;
  option.querySelector(".best").textContent = problem ? wordsOf(problem)[0] : top ? nameOf(top) : "\u00a0";
  fill(option.querySelector(".file"), top && `${score(top)} · `, photo.name);
}

/** Arrow keys go along the strip and explain where they stop. */
function moved(event) {
  const at = photos.indexOf(chosen);
  const to = {
    ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: photos.length - 1,
    " ": at, Enter: at,
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const photo = photos[Math.min(Math.max(to, 0), photos.length - 1)];
  light(photo);
  optionOf(photo).focus({preventScroll: true});
  choose(photo);
}

/** A small picture of a photograph, drawn once. What the browser can't read has its name alone. */
function thumbnail(photo) {
  if (photo.thumbnail) return photo.thumbnail;
  const made = h("canvas", {width: WIDTH, height: HEIGHT, "aria-hidden": "true"});
  photo.thumbnail = made;
  createImageBitmap(photo.blob).then((bitmap) => {
    cover(made, bitmap);
    if (bitmap !== photo.bitmap) bitmap.close();
  }).catch(() => {});
  return made;
}
