// Light or dark, before anything is drawn.
// In: what was chosen here before, else what the system says. Out: data-theme of the document.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("userbert-theme");
  } catch { /* storage may be off */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
