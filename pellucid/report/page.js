// Filters the contact sheet. Without a script, all pictures are shown.
const filters = document.querySelector(".filters");
const tiles = [...document.querySelectorAll(".sheet > details")];

function filter() {
  const {label, kind, text} = Object.fromEntries(new FormData(filters));
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const tile of tiles) {
    const {label: of, kinds, text: known} = tile.dataset;
    const fits = (!label || of === label) && (!kind || kinds.split(" ").includes(kind));
    tile.hidden = !fits || !words.every((word) => known.includes(word));
    shown += !tile.hidden;
  }
  filters.querySelector("output").value = `${shown} of ${tiles.length} pictures`;
}

// A link can set a filter; one to a picture shows it, whatever the filters hide.
function follow(event) {
  const link = event.target.closest("a[href^='#']");
  if (!link) return;
  if (link.dataset.label !== undefined || link.dataset.kind !== undefined) {
    filters.reset();
    if (link.dataset.label !== undefined) filters.elements.label.value = link.dataset.label;
    if (link.dataset.kind !== undefined) filters.elements.kind.value = link.dataset.kind;
    filter();
  }
  reveal(link.hash);
}

function reveal(hash) {
  const tile = hash && document.getElementById(hash.slice(1));
  if (!tile || tile.localName !== "details") return;
  if (tile.hidden) {
    filters.reset();
    filter();
  }
  tile.open = true;
}

filters.hidden = false;
filters.addEventListener("input", filter);
filters.addEventListener("reset", () => setTimeout(filter));
filters.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("click", follow);
window.addEventListener("hashchange", () => reveal(location.hash));
filter();
reveal(location.hash);
