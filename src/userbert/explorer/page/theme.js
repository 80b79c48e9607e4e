// Sets the light or dark theme before the page is drawn.
// In: the theme chosen earlier in this browser, if any. Out: the document's data-theme.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("userbert-theme");
  } catch { /* storage may be off */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
