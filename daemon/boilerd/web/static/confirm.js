// Opens the page that asks before an action in a dialog; without this it opens as a page.

import { openDialog, partOf } from "./dialog.js";

async function ask(address) {
  const question = await partOf(address, "[data-question]");
  const dialog = openDialog(question.querySelector("h1")?.textContent ?? "", question);
  dialog?.addEventListener("click", (event) => {
    if (!event.target.closest("[data-back]")) return;
    event.preventDefault();
    dialog.close();
  });
}

export function start() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-confirm]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    ask(link.href).catch(() => { location.href = link.href; });
  });
}
