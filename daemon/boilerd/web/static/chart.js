// Says the values of a chart under the pointer. The server has drawn it, and writes them all: one text for each column.

import { absolute } from "./time.js";

function leave(figure) {
  figure.querySelector(".guide")?.remove();
  figure.querySelector(".at")?.replaceChildren();
}

function show(figure, picture, x) {
  const told = JSON.parse(figure.dataset.told);
  const { left, width } = picture.getBoundingClientRect();
  const column = Math.floor(((x - left) / width) * told.length);
  if (!(column in told)) return leave(figure);
  let guide = picture.querySelector(".guide");
  if (!guide) {
    guide = document.createElementNS("http://www.w3.org/2000/svg", "path");
    guide.classList.add("guide");
    picture.append(guide);
  }
  guide.setAttribute("d", `M${column} 0h1v100h-1z`);
  const { from, step } = figure.dataset;
  const at = from ? `${absolute(new Date(Date.parse(from) + column * step * 1000))}: ` : "";
  figure.querySelector(".at").textContent = at + told[column];
}

export function start() {
  for (const kind of ["pointermove", "pointerdown"]) {
    document.addEventListener(kind, (event) => {
      const picture = event.target.closest?.("figure[data-told] svg");
      for (const figure of document.querySelectorAll("figure[data-told]:has(.guide)")) if (!figure.contains(picture)) leave(figure);
      if (picture) show(picture.closest("figure"), picture, event.clientX);
    });
  }
}
