// Renews the regions of the page that are marked with data-live: asks for the same address again and again, and morphs
// what comes into what is there. Never two at once; slower where the server is slow; not while somebody reads or types.

import { holdsInput } from "./fields.js";
import { kept } from "./kept.js";
import { isSelecting } from "./select.js";
import { clock, show } from "./time.js";

const FIRST_MS = 2000, LONGEST_MS = 60000, AGAIN_MS = 4000, MOST_SKEW_MS = 5000;
/** An answer that takes longer does not come: a request waits for 10 s at most, and for Redis for 5. */
const SILENT_MS = 30000;
const TICKED = "stands still while rows are ticked", NEVER = "not renewed";
/** What does not pass by itself, and is told at once. */
const LASTING = { 401: "log in again", 403: "you may not see it any more", 404: "it is not there any more" };
let wait = FIRST_MS, told = 0, tag = null, errors = 0, seenAt = new Date(), skew = 0, timer = 0, isAsking = false, isPaused = false;

/** The interval that the reader chose; 0: off. */
function chosen() {
  const found = Number(kept("interval"));
  return Number.isFinite(found) && found >= 0 ? found : FIRST_MS;
}

/** That, or longer where the server has much to do; but not where something is shown that soon is over. */
function usual() {
  return Math.max(chosen(), document.querySelector("main [data-soon]") ? 0 : told);
}

/** Why the page stands still; empty: it does not. */
function whyFrozen() {
  const active = document.activeElement;
  if (document.hidden) return "out of sight";
  if (document.querySelector("dialog[open]")) return "stands still while you are asked";
  if (!navigator.onLine) return "this machine is offline";
  if (isPaused) return "paused: p goes on";
  if (isSelecting() && !document.querySelector("main [data-freezes]")) return TICKED;
  if (!(getSelection()?.isCollapsed ?? true)) return "stands still while text is selected";
  const isTyping = active?.matches("input:not([type=checkbox]), select, textarea") && active.closest("[data-live]") !== null;
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
    else if (!hold(region, fresh)) morph(region, fresh);
  }
  const names = new Set(regions.map((region) => region.dataset.live));
  for (const region of document.querySelectorAll("main [data-live]")) if (!names.has(region.dataset.live)) region.remove();
}

/** Whether somebody reads a list: rows are ticked, or its beginning is out of sight. */
function isRead(region) {
  return "freezes" in region.dataset && (isSelecting() || region.getBoundingClientRect().top < 0);
}

/** Of a list that is read the rows stay where they are, each is renewed, and it is said what came and went. */
function hold(region, fresh) {
  const [rows, others] = [region, fresh].map((each) => new Map([...each.querySelectorAll("tr[id]")].map((row) => [row.id, row])));
  const newer = [...others.keys()].filter((id) => !rows.has(id)).length;
  const gone = [...rows.keys()].filter((id) => !others.has(id)).length;
  if (!isRead(region) || !(newer || gone)) return false;
  for (const [id, row] of rows) {
    const other = others.get(id);
    if (other) morph(row, other);
  }
  tag = null;  // it is shown whole as soon as nobody reads it any more
  offer(region, [newer && `${newer} newer`, gone && `${gone} gone`].filter(Boolean).join(", "));
  return true;
}

/** A button that shows the list as it is now. */
function offer(region, what) {
  let button = region.querySelector(".newer");
  if (!button) {
    button = document.createElement("button");
    button.className = "newer";
    button.addEventListener("click", () => {
      for (const box of document.querySelectorAll("main :is([data-row], [data-all])")) box.checked = false;
      region.scrollIntoView();
      clearTimeout(timer);
      if (!isAsking) go();
    });
    region.prepend(button);
  }
  button.textContent = `${what} · show`;
}

/** Make of an element what the server has there now, but for what is the reader's. */
function morph(element, fresh) {
  window.Idiomorph.morph(element, fresh, { callbacks: KEPT });
}

/** What the reader has opened stays open, and what was closed stays closed; so does what they changed in a field, and what
 * is said of a chart. */
const KEPT = {
  beforeAttributeUpdated: (name, element) => !(name === "open" && element.tagName === "DETAILS"),
  beforeNodeMorphed: (element, fresh) => !element.classList?.contains("at") && !holdsInput(element, fresh),
  beforeNodeRemoved: (element) => !element.classList?.contains("guide"),
};

/** What an answer without a picture says is wrong; that of a proxy may say nothing. */
async function problemOf(answer) {
  const page = new DOMParser().parseFromString(await answer.text().catch(silent), "text/html");
  return page.querySelector(".problem")?.textContent.trim() || `the server answers ${answer.status}`;
}

/** A time that the server asks for, in a header in seconds, in ms. */
function asked(answer, name) {
  return Number(answer.headers.get(name)) * 1000 || 0;
}

/** Throws that no answer came, or no end of it; true as its cause if that took too long, and the page was not left. */
function silent(error) {
  throw new Error("the dashboard does not answer", { cause: error.name === "TimeoutError" });
}

/** The picture as it is now; throws what is wrong, with the answer's status as its cause where there was an answer. */
async function poll() {
  const headers = { "Boilerd-Live": "1", ...(tag ? { "If-None-Match": tag } : {}) };
  const began = performance.now();
  const signal = AbortSignal.timeout(SILENT_MS);
  const answer = await fetch(location.href, { headers, signal, cache: "no-store", redirect: "error" }).catch(silent);
  told = Math.max(asked(answer, "Boilerd-Wait"), asked(answer, "Retry-After"));
  if (answer.status !== 304 && !answer.ok) throw new Error(LASTING[answer.status] ?? await problemOf(answer), { cause: answer.status });
  skew = Date.now() - Date.parse(answer.headers.get("Date") ?? new Date());
  if (answer.status === 200) {
    const text = await answer.text().catch(silent);
    tag = answer.headers.get("ETag");
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
    const next = took > wait / 4 ? Math.min(wait * 2, LONGEST_MS) : wait / 2;
    wait = Math.max(usual(), errors ? 0 : next);
    [errors, seenAt] = [0, new Date()];
    const isSlower = usual() > chosen();
    tell(!chosen() ? NEVER : isSelecting() ? TICKED : isSlower ? `renewed every ${Math.round(told / 1000)} s, as the dashboard is busy` : "");
  } catch (error) {
    errors += 1;
    const again = error.cause in LASTING ? wait * 2 : AGAIN_MS * (0.75 + Math.random() / 2);  // not all pages at once
    wait = Math.min(Math.max(chosen(), told, again), LONGEST_MS);
    if (error.cause || errors > 1) tell(`the last good picture: ${error.message}`);  // a page that is left has no answer
  }
}

async function go() {
  const frozen = whyFrozen();
  if (chosen()) {
    isAsking = !frozen;
    if (frozen) tell(frozen);
    else await ask();
    isAsking = false;
  }
  timer = setTimeout(go, chosen() && !frozen ? wait : FIRST_MS);
}

/** Begin anew, with the interval that was chosen. */
function restart() {
  wait = chosen() || FIRST_MS;
  tell(chosen() ? "" : NEVER);
  if (isAsking) return;
  clearTimeout(timer);
  timer = setTimeout(go, wait);
}

/** Pause this page, or have it go on. */
export function turn() {
  isPaused = !isPaused;
  restart();
  if (isPaused) tell(whyFrozen());
}

export function start() {
  if ("still" in document.body.dataset || !window.Idiomorph || !document.querySelector("main [data-live]")) return;
  document.addEventListener("visibilitychange", restart);
  document.addEventListener("boilerd:kept", restart);
  restart();
}
