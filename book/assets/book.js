// What the theme leaves out for readers who use a keyboard or a screen reader.
document.addEventListener("DOMContentLoaded", () => {
  const words = (text) => text.replace(/\s+/g, " ").trim().toLowerCase();
  // A button is called by what it shows: a label that says something else cannot be spoken to.
  for (const button of document.querySelectorAll("button[aria-label]")) {
    const shown = words(button.innerText);
    if (shown && !words(button.ariaLabel).includes(shown)) button.removeAttribute("aria-label");
  }
  // The icons of this one count as text, each named by its mode.
  for (const button of document.querySelectorAll(".theme-switch-button")) {
    const modes = [...button.querySelectorAll("[title], title")].map((icon) => icon.title || icon.textContent);
    button.ariaLabel = `Color mode: ${modes.join(", ")}`;
  }
  // The side bar with the logo is a landmark.
  const side = document.querySelector(".bd-sidebar-primary");
  side?.setAttribute("role", "navigation");
  side?.setAttribute("aria-label", "Book");
  // What unfolds a part of the contents has an icon for a name.
  document.querySelectorAll("summary:has(> .toctree-toggle)").forEach((toggle) => (toggle.ariaLabel = "Pages of this part"));
  // A list has list items.
  document.querySelectorAll(".citation-list > .citation").forEach((item) => item.setAttribute("role", "listitem"));
  // A table of sentences names its columns in each cell, for phones, where it is read row by row.
  for (const table of document.querySelectorAll(".bd-article > section table:not(.cell_output table)")) {
    const columns = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    const cells = [...table.querySelectorAll("tbody td")];
    if (columns.length < 2 || !cells.some((cell) => cell.textContent.length > 40)) continue;
    table.classList.add("sentences");
    for (const cell of cells) {
      // The first is a heading by itself, unless it is a bare number.
      if (cell.cellIndex || cell.textContent.trim().length < 4) cell.dataset.column = columns[cell.cellIndex];
    }
  }
  // What scrolls can be scrolled from the keyboard.
  const scrolls = () =>
    document.querySelectorAll(".bd-article :is(table, pre, .math, .katex-display, .cell_output)").forEach((box) => {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    });
  scrolls();
  window.addEventListener("resize", scrolls);
});
