// Says that scripts run, and sets the colours and columns that this reader chose, before anything is drawn; so it is no module.
document.documentElement.dataset.scripts = "";
try {
  const theme = localStorage.getItem("boilerd.theme");
  document.documentElement.dataset.hides = localStorage.getItem("boilerd.hidden") ?? "";
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* A browser that keeps nothing has the system's. */ }
