// The palette (Ctrl K): goes to a page, queue, type, periodic task, saved view or ID, or does what this page lets one do.

import { made, openDialog } from "./dialog.js";
import { addressOf, save, views } from "./views.js";

const MOST_SHOWN = 12;
let tag = "", names = { queues: [], types: [], crons: [] };

/** The names, which are sent again only where they have changed. */
async function fetchNames(address) {
  const answer = await fetch(`${address}.json`, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
  if (answer.status === 200) [tag, names] = [answer.headers.get("ETag") ?? "", await answer.json()];
}

/** A name as a part of an address, as the server writes it. */
function segment(name) {
  const bytes = (char) => [...new TextEncoder().encode(char)].map((byte) => `~${byte.toString(16).toUpperCase().padStart(2, "0")}`);
  return name.replace(/[^A-Za-z0-9_:-]/gu, (char) => bytes(char).join("")) || "~";
}

/** What this page lets one do; a link or a button is clicked for it. */
function actions() {
  const heading = document.querySelector("h1")?.textContent.trim() ?? "";
  const found = [...document.querySelectorAll("main .actions :is(a, button)")].filter((each) => each.form?.id !== "selected");
  return found.map((each) => ({ name: each.textContent.trim(), kind: heading, act: () => each.click() }));
}

function all() {
  const root = document.body.dataset.root;
  const pages = [...document.querySelectorAll("header nav a, .tools > a:not([data-palette], .unscripted)")];
  const named = (kind, path, list) => list.map((name) => ({ name, kind, to: `${root}/${path}/${segment(name)}` }));
  const kept = document.querySelector("[data-keep]");
  return [
    ...actions(),
    ...pages.map((each) => ({ name: each.textContent.trim(), kind: "page", to: each.href })),
    ...views().map((view) => ({ name: view.name, kind: "saved view", to: addressOf(view) })),
    ...named("queue", "queues", names.queues), ...named("type", "types", names.types),
    ...named("periodic task", "crons", names.crons),
    { name: "Save this view", kind: "in this browser", act: save },
    ...(kept ? [{ name: kept.textContent.trim(), kind: "for 7 days", act: () => kept.click() }] : []),
  ];
}

/** Those that have all words, the ones first that begin with what was written; and the search for it. */
function found(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = all().filter((each) => words.every((word) => `${each.name} ${each.kind}`.toLowerCase().includes(word)));
  const rank = (each) => (each.name.toLowerCase().startsWith(words[0] ?? "") ? 0 : 1);
  const best = fits.sort((a, b) => rank(a) - rank(b)).slice(0, MOST_SHOWN);
  const query = new URLSearchParams({ q: text.trim() });
  const search = { name: text.trim(), kind: "find this ID, or tasks with it", to: `${document.body.dataset.root}/tasks?${query}` };
  return text.trim() ? [...best, search] : best;
}

export function open() {
  const field = made("input", {
    type: "text", role: "combobox", "aria-expanded": "true", "aria-controls": "palette", "aria-autocomplete": "list",
    "aria-label": "Go to", autocomplete: "off", spellcheck: "false", maxlength: "200",
    placeholder: "ID, queue, type, page or action",
  });
  const list = made("ul", { id: "palette", role: "listbox", "aria-label": "What fits" });
  const dialog = openDialog("Go to", made("div", {}, field, list));
  if (!dialog) return;
  dialog.classList.add("palette");
  let shown = [], chosen = 0;

  const mark = (place) => {
    chosen = (place + shown.length) % shown.length;
    for (const [index, row] of [...list.children].entries()) row.setAttribute("aria-selected", String(index === chosen));
    field.setAttribute("aria-activedescendant", `option-${chosen}`);
    list.children[chosen]?.scrollIntoView({ block: "nearest" });
  };
  const show = () => {
    shown = found(field.value);
    list.replaceChildren(...shown.map(({ name, kind }, index) =>
      made("li", { role: "option", id: `option-${index}` }, made("span", {}, name), made("span", { class: "quiet" }, kind))));
    mark(0);
  };
  /** With the names that came meanwhile; somebody may have gone to an entry by then, and is about to choose it. */
  const renew = () => {
    const before = chosen ? shown[chosen] : null;
    show();
    const place = shown.findIndex((each) => each.name === before?.name && each.kind === before.kind);
    if (place > 0) mark(place);
  };
  const go = (entry) => {
    if (!entry) return;
    dialog.addEventListener("close", () => (entry.act ? entry.act() : location.assign(entry.to)));
    dialog.close();
  };

  field.addEventListener("input", show);
  field.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) mark(chosen + step);
    else if (event.key === "Enter" && !event.isComposing) go(shown[chosen]);
    else return;
    event.preventDefault();
  });
  list.addEventListener("click", (event) => go(shown[[...list.children].indexOf(event.target.closest("li"))]));
  show();
  fetchNames(document.querySelector("[data-palette]").href).then(() => dialog.open && renew()).catch(() => { /* What there is will do. */ });
}

export function start() {
  const link = document.querySelector("[data-palette]");
  if (!link) return;
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-palette]") || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    open();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey) return;
    event.preventDefault();
    open();
  });
}
