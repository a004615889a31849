// Keys of one letter, unless the reader has switched them off; none of it while one types. The page of the settings has
// what each of them does.

import { openDialog, partOf } from "./dialog.js";
import { kept } from "./kept.js";
import { turn } from "./live.js";
import { isSelecting } from "./select.js";

const DEEDS = { r: "run", a: "archive", d: "delete", c: "cancel" };

function isTyping(target) {
  return target.closest?.("input:not([type=checkbox]), select, textarea, [contenteditable], dialog") != null;
}

function search() {
  const field = document.querySelector("[role=search] input:not([type=hidden]), [role=search] select");
  field?.focus();
  return field !== null;
}

/** The row in which the focus is. */
function row() {
  return document.activeElement?.closest("main tbody tr") ?? null;
}

/** To the link of the next row, or of the one before. */
function move(step) {
  const links = [...document.querySelectorAll("main tbody tr")].map((each) => each.querySelector("a[href]")).filter(Boolean);
  const now = links.findIndex((link) => link.closest("tr") === row());
  const next = links[now < 0 ? 0 : Math.min(Math.max(now + step, 0), links.length - 1)];
  next?.focus();
}

/** To the question before something is done, with what is ticked or with what the page shows. */
function askTo(deed) {
  const place = isSelecting() ? `#selected button[formaction$="/${deed}"]` : `main .actions a[data-confirm][href$="/${deed}"]`;
  document.querySelector(place)?.click();
}

async function showKeys() {
  const list = await partOf(document.getElementById("settings").href, "dl.keys");
  openDialog("Keys", list);
}

function press(key) {
  if (key in DEEDS) askTo(DEEDS[key]);
  else if (key === "j" || key === "k") move(key === "j" ? 1 : -1);
  else if (key === "x") row()?.querySelector("[data-row]")?.click();
  else if (key === "p") turn();
  else if (key === "?") showKeys().catch(() => { /* The settings have them too. */ });
  else return key === "/" && search();
  return true;
}

export function start() {
  let waits = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (kept("keys") === "off") return;
    if (waits) {
      waits = false;
      document.querySelector(`header nav a[data-key="${CSS.escape(event.key.toLowerCase())}"]`)?.click();
    } else if (event.key === "g") {
      waits = true;
      setTimeout(() => { waits = false; }, 1500);
    } else if (press(event.key)) event.preventDefault();
  });
}
