// What this browser keeps for its reader: the theme, the zone, how often pages are renewed, how lists look. The server
// sees none of it, but for the number of rows in an address.

const USUAL = { theme: "system", zone: "local", moments: "relative", interval: "2000", size: "usual", hidden: "", keys: "on" };
const now = new Map();

/** What the reader chose, or what is usual; `usual` for a name that has no entry above. */
export function kept(name, usual = USUAL[name]) {
  if (now.has(name)) return now.get(name);
  try {
    return localStorage.getItem(`boilerd.${name}`) ?? usual;
  } catch {
    return usual;
  }
}

/** Keep it; where the browser keeps nothing, it holds for this page. */
export function keep(name, value) {
  now.set(name, value);
  try {
    localStorage.setItem(`boilerd.${name}`, value);
    now.delete(name);
  } catch { /* It holds for this page. */ }
  document.dispatchEvent(new CustomEvent("boilerd:kept", { detail: name }));
}

/** Have all fields that are marked with data-keeps show what is kept, and keep what is chosen there. */
export function start() {
  const write = () => {
    const theme = kept("theme");
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    for (const field of document.querySelectorAll("[data-keeps]")) field.value = kept(field.dataset.keeps);
  };
  document.addEventListener("change", (event) => {
    const field = event.target.closest?.("[data-keeps]");
    if (field) keep(field.dataset.keeps, field.value);
  });
  document.addEventListener("boilerd:kept", write);
  addEventListener("storage", (event) => {  // another window of this browser; without a key, it has forgotten all
    if (event.key?.startsWith("boilerd.") ?? true) document.dispatchEvent(new CustomEvent("boilerd:kept", { detail: "" }));
  });
  write();
}
