// Keys, unless the reader has switched them off: "/" goes to the search field, "g" and a letter to a page of the menu;
// none of it while one types.

import { kept } from "./kept.js";

function isTyping(target) {
  return target.closest?.("input, select, textarea, [contenteditable], dialog") != null;
}

function goTo(letter) {
  const links = [...document.querySelectorAll("header nav a")];
  links.find((link) => link.textContent.trim().toLowerCase().startsWith(letter))?.click();
}

export function start() {
  let waits = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (kept("keys") === "off") return;
    if (waits) {
      waits = false;
      goTo(event.key.toLowerCase());
    } else if (event.key === "g") {
      waits = true;
      setTimeout(() => { waits = false; }, 1500);
    } else if (event.key === "/") {
      const field = document.querySelector("[role=search] input:not([type=hidden]), [role=search] select");
      if (field) event.preventDefault();
      field?.focus();
    }
  });
}
