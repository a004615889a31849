// How many rows lists have, and which columns of tasks are hidden, as the reader chose.

import { keep, kept } from "./kept.js";

/** How many rows the reader chose, as an address says it; empty: as each list has it. */
function asked() {
  const size = kept("size");
  return /^\d{1,3}$/.test(size) ? `size=${size}` : "";
}

/** Of a list whose address does not say how many rows: show as many. A later page of it begins where its address says. */
function resize() {
  const query = new URLSearchParams(location.search);
  if (!("sized" in document.body.dataset) || !asked() || query.has("size") || query.has("page")) return;
  location.replace(`${location.pathname}${location.search}${location.search ? "&" : "?"}${asked()}${location.hash}`);
}

function write() {
  const hidden = kept("hidden").split(" ");
  document.documentElement.dataset.hides = kept("hidden");
  for (const box of document.querySelectorAll("[data-shows]")) box.checked = !hidden.includes(box.dataset.shows);
  for (const link of document.querySelectorAll("header a[data-sized]")) link.search = asked();
}

export function start() {
  document.addEventListener("change", (event) => {
    if (!event.target.closest?.("[data-shows]")) return;
    keep("hidden", [...document.querySelectorAll("[data-shows]:not(:checked)")].map((box) => box.dataset.shows).join(" "));
  });
  document.addEventListener("boilerd:kept", write);
  write();
  resize();
}
