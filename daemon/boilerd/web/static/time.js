// Shows moments in the zone that the reader chose; the server writes UTC.

import { kept } from "./kept.js";

const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "narrow" });
const FORM = {
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  hourCycle: "h23", timeZoneName: "short",
};
const local = new Intl.DateTimeFormat("sv-SE", FORM), utc = new Intl.DateTimeFormat("sv-SE", { ...FORM, timeZone: "UTC" });

let isPrinted = false;

/** The name of the zone in which moments are written. */
function zone() {
  return kept("zone") === "utc" ? "UTC" : local.resolvedOptions().timeZone;
}

/** A moment with its day and zone. */
export function absolute(moment) {
  return (kept("zone") === "utc" ? utc : local).format(moment);
}

/** "3min ago", by this machine's clock. */
function ago(moment) {
  const seconds = (moment - Date.now()) / 1000;
  const [unit, size] = UNITS.find(([, each]) => Math.abs(seconds) >= each) ?? UNITS.at(-1);
  return relative.format(Math.trunc(seconds / size), unit);
}

/** The time of a day, for what the page says of itself; the end of the page says it on paper, with the day. */
export function clock(moment) {
  const end = document.querySelector("footer time");
  if (end) end.dateTime = moment.toISOString();
  return absolute(moment).split(" ")[1];
}

/** Write all moments of the page, or of a part of it, anew. */
export function show(part = document) {
  // What stands still does not get older, and paper does.
  const isAbsolute = isPrinted || kept("moments") === "absolute" || "still" in document.body.dataset;
  for (const element of part.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.valueOf())) continue;
    const text = isAbsolute || element.dataset.style === "absolute" ? absolute(moment) : ago(moment);
    if (element.textContent !== text) element.textContent = text;
    const title = `${local.format(moment)}, ${utc.format(moment)}, ${ago(moment)}`;
    if (element.title !== title) element.title = title;
  }
}

function showAll() {
  document.getElementById("zone")?.replaceChildren(zone());
  show();
}

export function start() {
  showAll();
  document.addEventListener("boilerd:kept", showAll);
  for (const event of ["beforeprint", "afterprint"]) {
    addEventListener(event, () => {
      isPrinted = event === "beforeprint";
      show();
    });
  }
  setInterval(() => document.hidden || show(), 1000);
}
