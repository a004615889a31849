// Says that scripts run, and sets the colours that this reader chose, before anything is drawn; so it is no module.
document.documentElement.dataset.scripts = "";
try {
  const theme = localStorage.getItem("boilerd.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* A browser that keeps nothing has the system's. */ }
