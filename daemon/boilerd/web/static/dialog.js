// Opens a dialog that is gone when it is closed; the focus goes back to where it was.

import { show } from "./time.js";

/** The dialog, or null where one is open already: somebody clicked twice. */
export function openDialog(label, ...content) {
  if (document.querySelector("dialog[open]")) return null;
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-label", label);
  dialog.append(...content);
  show(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A part of another page of ours; throws where that is not shown. */
export async function partOf(address, selector) {
  const answer = await fetch(address, { headers: { "Boilerd-Live": "1" }, cache: "no-store" });
  if (!answer.ok) throw new Error(String(answer.status));
  const found = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(selector);
  if (!found) throw new Error(`no ${selector}`);
  return document.adoptNode(found);
}

/** An element with attributes, and text or children. */
export function made(name, attributes = {}, ...content) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...content);
  return element;
}
