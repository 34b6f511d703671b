// The chosen theme, set before the page is first painted. "auto" follows the system.
(() => {
  let theme = "auto";
  try {
    theme = JSON.parse(localStorage.getItem("quire.theme")) || theme;
  } catch {
    // Storage may be forbidden: the page then follows the system.
  }
  document.documentElement.dataset.theme = theme;
})();
