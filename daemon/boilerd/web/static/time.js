// Shows moments in the reader's zone; the server writes UTC.

const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always" });
const absolute = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

/** "3 minutes ago", by this machine's clock. */
function ago(moment) {
  const seconds = (moment - Date.now()) / 1000;
  const [unit, size] = UNITS.find(([, each]) => Math.abs(seconds) >= each) ?? UNITS.at(-1);
  return relative.format(Math.trunc(seconds / size), unit);
}

/** Write all moments of the page, or of a part of it, anew. */
export function show(part = document) {
  for (const element of part.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.valueOf())) continue;
    const text = element.dataset.style === "absolute" ? absolute.format(moment) : ago(moment);
    if (element.textContent !== text) element.textContent = text;
    element.title = `${absolute.format(moment)}, ${element.dateTime}`;
  }
}

export function start() {
  document.getElementById("zone")?.replaceChildren(Intl.DateTimeFormat().resolvedOptions().timeZone);
  show();
  setInterval(() => document.hidden || show(), 1000);
}
