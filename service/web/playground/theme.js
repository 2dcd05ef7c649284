// Light or dark: the system's choice unless the visitor made one. A classic script: it runs before the first paint.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
  } catch {
    // storage may be forbidden; then the choice lasts as long as the page
  }
  if (kept) root.dataset.theme = kept;
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      const current = root.dataset.theme ?? (system.matches ? "dark" : "light");
      root.dataset.theme = current === "dark" ? "light" : "dark";
      try {
        localStorage.setItem("theme", root.dataset.theme);
      } catch {
        // as above
      }
    });
  });
})();
