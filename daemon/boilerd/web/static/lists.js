// How many rows lists have, and which columns of tasks are hidden, as the reader chose.

import { keep, kept } from "./kept.js";

/** How many rows the reader chose, as an address says it; empty: as each list has it. */
function asked() {
  const size = kept("size");
  return /^\d{1,3}$/.test(size) ? `size=${size}` : "";
}

/** The query of a list with so many rows, where it does not say how many; a later page of it begins where it says. */
function sized(search) {
  const query = new URLSearchParams(search);
  return !asked() || query.has("size") || query.has("page") ? search : `${search}${search ? "&" : "?"}${asked()}`;
}

/** Show as many rows where somebody came by an address that does not say how many. */
function resize() {
  const search = sized(location.search);
  if ("sized" in document.body.dataset && search !== location.search) location.replace(`${location.pathname}${search}${location.hash}`);
}

/** Have a link to a list say it, so that the list is not asked for twice. */
function follow(event) {
  const link = event.target.closest?.("a[href]");
  const lists = [...document.querySelectorAll("header a[data-sized]")].map((each) => each.pathname);
  if (link?.origin === location.origin && lists.includes(link.pathname)) link.search = sized(link.search);
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
  document.addEventListener("click", follow);
  document.addEventListener("auxclick", follow);
  document.addEventListener("boilerd:kept", write);
  write();
  resize();
}
