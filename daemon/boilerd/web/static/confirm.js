// Opens the page that asks before an action in a dialog; without this it opens as a page.

async function ask(address) {
  const answer = await fetch(address, { headers: { "Boilerd-Live": "1" }, cache: "no-store" });
  if (!answer.ok) throw new Error(String(answer.status));
  const text = await answer.text();
  if (document.querySelector("dialog[open]")) return;  // somebody clicked twice
  const page = new DOMParser().parseFromString(text, "text/html");
  const question = page.querySelector("[data-question]");
  if (!question) throw new Error("no question");
  const dialog = document.createElement("dialog");
  dialog.append(document.adoptNode(question));
  const heading = dialog.querySelector("h1");
  if (heading) {
    heading.id = "question";
    dialog.setAttribute("aria-labelledby", "question");
  }
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (!event.target.closest("[data-back]")) return;
    event.preventDefault();
    dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
}

export function start() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-confirm]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    ask(link.href).catch(() => { location.href = link.href; });
  });
}
