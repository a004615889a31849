// Selects rows: a checkbox in the head for all of the page, and a range with shift.

/** Whether somebody has ticked a row: a list stands still then. */
export function isSelecting() {
  return document.querySelector("main [data-row]:checked") !== null;
}

function boxes() {
  return [...document.querySelectorAll("main [data-row]")];
}

export function start() {
  let last = null;
  document.addEventListener("click", (event) => {
    const box = event.target;
    if (!(box instanceof HTMLInputElement)) return;
    if (box.matches("[data-all]")) for (const each of boxes()) each.checked = box.checked;
    if (!box.matches("[data-row]")) return;
    const all = boxes();
    if (event.shiftKey && last?.isConnected) {
      const [from, to] = [all.indexOf(last), all.indexOf(box)].sort((a, b) => a - b);
      for (const each of all.slice(from, to + 1)) each.checked = box.checked;
    }
    last = box;
    const ofAll = document.querySelector("main [data-all]");
    if (ofAll) ofAll.checked = all.every((each) => each.checked);
  });
}
