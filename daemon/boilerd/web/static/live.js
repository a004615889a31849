// Renews the regions of the page that are marked with data-live: asks for the same address again and again, and morphs
// what comes into what is there. Never two at once; slower where the server is slow; not while somebody reads or types.

import { kept } from "./kept.js";
import { isSelecting } from "./select.js";
import { clock, show } from "./time.js";

const FIRST_MS = 2000, LONGEST_MS = 60000, MOST_ERRORS = 5, MOST_SKEW_MS = 5000;
/** What does not pass by itself, and is told at once. */
const LASTING = { 401: "log in again", 403: "you may not see it any more", 404: "it is not there any more" };
let wait = FIRST_MS, tag = null, errors = 0, seenAt = new Date(), skew = 0, timer = 0, isAsking = false;

/** The interval that the reader chose; 0: off. */
function chosen() {
  const found = Number(kept("interval"));
  return Number.isFinite(found) && found >= 0 ? found : FIRST_MS;
}

/** Why the page stands still; empty: it does not. */
function whyFrozen() {
  const active = document.activeElement;
  if (document.hidden) return "out of sight";
  if (document.querySelector("dialog[open]")) return "stands still while you are asked";
  if (!navigator.onLine) return "this machine is offline";
  if (isSelecting()) return "stands still while rows are ticked";
  if (!(getSelection()?.isCollapsed ?? true)) return "stands still while text is selected";
  const isTyping = active?.matches("input, select, textarea") && active.closest("[data-live]") !== null;
  return isTyping ? "stands still while you type" : "";
}

/** Put a region that is new after the one that it follows. */
function insert(fresh, before) {
  const place = before && document.querySelector(`main [data-live="${CSS.escape(before.dataset.live)}"]`);
  if (place) place.after(document.importNode(fresh, true));
}

function renew(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  const regions = [...page.querySelectorAll("[data-live]")];
  show(page);
  for (const [index, fresh] of regions.entries()) {
    const region = document.querySelector(`main [data-live="${CSS.escape(fresh.dataset.live)}"]`);
    if (!region) insert(fresh, regions[index - 1]);
    else window.Idiomorph.morph(region, fresh, { ignoreActiveValue: true, callbacks: { beforeAttributeUpdated: isKept } });
  }
  const names = new Set(regions.map((region) => region.dataset.live));
  for (const region of document.querySelectorAll("main [data-live]")) if (!names.has(region.dataset.live)) region.remove();
}

/** What the reader has opened stays open, and what was closed stays closed. */
function isKept(name, element) {
  return !(name === "open" && element.tagName === "DETAILS");
}

async function poll() {
  const headers = { "Boilerd-Live": "1", ...(tag ? { "If-None-Match": tag } : {}) };
  const began = performance.now();
  const answer = await fetch(location.href, { headers, cache: "no-store", redirect: "error" });
  if (answer.status in LASTING) throw Object.assign(new Error(LASTING[answer.status]), { lasts: true });
  if (answer.status !== 304 && !answer.ok) throw new Error(`the server answers ${answer.status}`);
  skew = Date.now() - Date.parse(answer.headers.get("Date") ?? new Date());
  tag = answer.headers.get("ETag");
  if (answer.status === 200) {
    const text = await answer.text();
    if (!whyFrozen()) renew(text);
    else tag = null;
  }
  return performance.now() - began;
}

/** Say how old the picture is, and what is wrong with it. */
function tell(problem) {
  const place = document.getElementById("live");
  if (!place) return;
  const isSkewed = Math.abs(skew) > MOST_SKEW_MS;
  const clockSays = isSkewed ? `this machine's clock is ${Math.round(Math.abs(skew) / 1000)} s ${skew > 0 ? "fast" : "slow"}` : "";
  const text = [`as of ${clock(seenAt)}`, problem, clockSays].filter(Boolean).join(", ");
  place.classList.toggle("bad", errors > 0);
  if (place.textContent !== text) place.textContent = text;
}

async function ask() {
  try {
    const took = await poll();
    [errors, seenAt] = [0, new Date()];
    wait = took > wait / 4 ? Math.min(wait * 2, LONGEST_MS) : Math.max(chosen(), wait / 2);
    tell("");
  } catch (error) {
    errors += 1;
    wait = Math.min(wait * 2, LONGEST_MS);
    if (error.lasts || errors >= MOST_ERRORS) tell(`the last good picture: ${error.message}`);
  }
}

async function go() {
  if (chosen()) {
    const frozen = whyFrozen();
    isAsking = !frozen;
    if (frozen) tell(frozen);
    else await ask();
    isAsking = false;
  }
  timer = setTimeout(go, chosen() ? wait : FIRST_MS);
}

/** Begin anew, with the interval that was chosen. */
function restart() {
  wait = chosen() || FIRST_MS;
  tell(chosen() ? "" : "not renewed");
  if (isAsking) return;
  clearTimeout(timer);
  timer = setTimeout(go, wait);
}

export function start() {
  if (!window.Idiomorph || !document.querySelector("main [data-live]")) return;
  document.addEventListener("visibilitychange", restart);
  document.addEventListener("boilerd:kept", restart);
  restart();
}
