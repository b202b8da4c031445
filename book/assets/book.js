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
  // What a cell says: a formula once, as it is seen.
  const said = (cell) => {
    const copy = cell.cloneNode(true);
    copy.querySelectorAll(".katex-mathml").forEach((part) => part.remove());
    return copy.textContent.trim();
  };
  // A table of sentences names its columns in each cell, for phones, where it is read row by row.
  for (const table of document.querySelectorAll(".bd-article > section table:not(.cell_output table)")) {
    const columns = [...table.querySelectorAll("thead th")].map(said);
    const cells = [...table.querySelectorAll("tbody td")];
    if (columns.length < 2 || !cells.some((cell) => cell.textContent.length > 40)) continue;
    table.classList.add("sentences");
    for (const cell of cells) {
      // The first is a heading by itself, unless it is a bare number or letter.
      const bare = said(cell).length < 4 && !cell.querySelector(".katex");
      if (cell.cellIndex || bare) cell.dataset.column = columns[cell.cellIndex];
      cell.classList.toggle("missing", !said(cell));
    }
  }
  // Columns of numbers stand under each other, columns of words have room, and long names may break.
  const number = /^[-−+]?[\d,.]+(e[-+]?\d+)?%?(\s±\s[\d,.]+)?$/;
  const missing = /^(NaN|nan|None)?$/;
  for (const table of document.querySelectorAll(".bd-article table:not(.sentences)")) {
    const columns = new Map(); // counted from the right: a name at the left may span several rows
    for (const cell of table.querySelectorAll("tbody td")) {
      const place = cell.parentElement.cells.length - cell.cellIndex;
      columns.set(place, [...(columns.get(place) ?? []), cell]);
    }
    const heads = [...(table.tHead?.rows[table.tHead.rows.length - 1]?.cells ?? [])];
    for (const [place, cells] of columns) {
      const there = cells.filter((cell) => !missing.test(said(cell)));
      cells.filter((cell) => !there.includes(cell)).forEach((cell) => cell.classList.add("missing"));
      if (there.length && there.every((cell) => number.test(said(cell)))) {
        [...cells, heads[heads.length - place]].forEach((cell) => cell?.classList.add("number"));
      } else {
        const longest = Math.max(...cells.map((cell) => said(cell).length));
        cells.forEach((cell) => cell.classList.add("words"));
        cells.forEach((cell) => cell.style.setProperty("--words", `${Math.min(longest, 22) * 0.55}em`));
      }
    }
    for (const name of table.querySelectorAll("th")) {
      if (number.test(said(name))) name.classList.add("number");
      if (!name.children.length) name.innerHTML = name.innerHTML.replace(/[_=]/g, "$&<wbr>");
    }
  }
  // A name in a table breaks between its parts.
  for (const name of document.querySelectorAll(".bd-article td code .pre")) {
    name.innerHTML = name.innerHTML.replace(/(?<=[\w)])[_./(=,]+/g, "$&<wbr>");
  }
  // A comma stays on the line of a short formula.
  for (const formula of document.querySelectorAll(".bd-article span.math")) {
    const next = formula.nextSibling;
    const mark = next?.nodeType === Node.TEXT_NODE && next.data.match(/^[,.;:)?!’”]+/)?.[0];
    if (!mark || formula.getBoundingClientRect().width > 150) continue;
    const tie = document.createElement("span");
    tie.className = "tied";
    formula.replaceWith(tie);
    tie.append(formula, mark);
    next.data = next.data.slice(mark.length);
  }
  // What scrolls can be scrolled from the keyboard.
  const scrolls = () =>
    document.querySelectorAll(".bd-article :is(table, pre, .math, .katex-display, .cell_output)").forEach((box) => {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    });
  scrolls();
  document.fonts.ready.then(scrolls); // formulas have their width then
  window.addEventListener("load", scrolls);
  window.addEventListener("resize", scrolls);
});
