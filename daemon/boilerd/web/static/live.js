// Renews the regions of the page that are marked with data-live: asks for the same address again and again, and morphs
// what comes into what is there. Never two at once; slower where the server is slow; not while somebody reads or types.

import { isSelecting } from "./select.js";
import { show } from "./time.js";

const FIRST_MS = 2000, LONGEST_MS = 60000, MOST_ERRORS = 5;
let wait = FIRST_MS, tag = null, errors = 0, seenAt = new Date();

/** The interval that the reader chose; 0: off. */
function chosen() {
  const kept = Number(localStorage.getItem("boilerd.interval") ?? FIRST_MS);
  return Number.isFinite(kept) && kept >= 0 ? kept : FIRST_MS;
}

/** Whether what is on the page had better stand still. */
function isFrozen() {
  const active = document.activeElement;
  return document.hidden || !navigator.onLine || document.querySelector("dialog[open]") !== null || isSelecting()
    || !(getSelection()?.isCollapsed ?? true)
    || (active?.matches("input, select, textarea") && active.closest("[data-live]") !== null);
}

function renew(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  for (const region of document.querySelectorAll("main [data-live]")) {
    const fresh = page.querySelector(`[data-live="${CSS.escape(region.dataset.live)}"]`);
    if (!fresh) continue;
    show(fresh);
    window.Idiomorph.morph(region, fresh, { ignoreActiveValue: true, callbacks: { beforeAttributeUpdated: isKept } });
  }
}

/** What the reader has opened stays open. */
function isKept(name, element) {
  return !(name === "open" && element.tagName === "DETAILS");
}

async function poll() {
  const headers = { "Boilerd-Live": "1", ...(tag ? { "If-None-Match": tag } : {}) };
  const began = performance.now();
  const answer = await fetch(location.href, { headers, cache: "no-store", redirect: "error" });
  if (answer.status !== 304 && !answer.ok) throw new Error(`the server answers ${answer.status}`);
  tag = answer.headers.get("ETag");
  if (answer.status === 200) {
    const text = await answer.text();
    if (!isFrozen()) renew(text);
    else tag = null;
  }
  return performance.now() - began;
}

function tell(problem) {
  const place = document.getElementById("live");
  if (!place) return;
  const at = seenAt.toLocaleTimeString();
  place.hidden = false;
  place.textContent = problem ? `Last good picture of ${at}: ${problem}` : `as of ${at}`;
}

async function go() {
  const interval = chosen();
  if (interval && !isFrozen()) {
    try {
      const took = await poll();
      [errors, seenAt] = [0, new Date()];
      wait = took > wait / 4 ? Math.min(wait * 2, LONGEST_MS) : Math.max(interval, wait / 2);
      tell("");
    } catch (error) {
      errors += 1;
      wait = Math.min(wait * 2, LONGEST_MS);
      if (errors >= MOST_ERRORS) tell(error.message);
    }
  }
  setTimeout(go, wait);
}

export function start() {
  if (!window.Idiomorph || !document.querySelector("main [data-live]")) return;
  document.addEventListener("visibilitychange", () => { wait = chosen() || FIRST_MS; });
  setTimeout(go, chosen() || FIRST_MS);
}
