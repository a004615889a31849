// Views that the reader has saved: addresses of ours with a name, kept in this browser; a view is shared as its link.

import { made, openDialog } from "./dialog.js";
import { keep, kept } from "./kept.js";

const MOST = 50;

/** All of them, as `{name, path}` by name; a path is one below the prefix. */
export function views() {
  try {
    const found = JSON.parse(kept("views", "[]"));
    return found.filter(({ name, path }) => typeof name === "string" && /^\/(?![/\\])/.test(path));
  } catch {
    return [];  // whatever else stands there
  }
}

export function addressOf(view) {
  return document.body.dataset.root + view.path;
}

function write(all) {
  keep("views", JSON.stringify(all.sort((a, b) => a.name.localeCompare(b.name)).slice(0, MOST)));
}

/** The address of this page without what it says but once. */
function here() {
  const query = new URLSearchParams(location.search);
  for (const name of ["told", "seal", "renew"]) query.delete(name);
  const asked = query.size ? `?${query}` : "";
  return location.pathname.slice(document.body.dataset.root.length) + asked || "/";
}

/** Ask for a name, and save what is shown. */
export function save() {
  const field = made("input", { required: "", maxlength: "60", value: document.querySelector("h1")?.textContent.trim() ?? "" });
  const form = made("form", { method: "dialog", class: "login" },
    made("h2", {}, "Save this view"), made("label", {}, "Name", field), made("button", {}, "Save"));
  form.addEventListener("submit", () => {
    const name = field.value.trim();
    if (name) write([...views().filter((each) => each.name !== name), { name, path: here() }]);
  });
  openDialog("Save this view", form);
  field.select();
}

/** List them on the page of the settings. */
function list() {
  const place = document.getElementById("views");
  if (!place) return;
  const rows = views().map((view) => {
    const button = made("button", { class: "plain", type: "button" }, "Delete", made("span", { class: "unseen" }, ` ${view.name}`));
    button.addEventListener("click", () => write(views().filter((each) => each.name !== view.name)));
    return made("li", {}, made("a", { href: addressOf(view) }, view.name), " ", button);
  });
  place.replaceChildren(...(rows.length ? rows : [made("li", {}, "There are none; “Save this view” stands at the end of each page.")]));
}

export function start() {
  document.addEventListener("click", (event) => event.target.closest?.("[data-save-view]") && save());
  document.addEventListener("boilerd:kept", list);
  list();
}
