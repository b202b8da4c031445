// What stands under a result of the search: words of the page, formulas once and in plain letters, cut between words.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return; // on every page but that of the search

  // The part of a page that a result leads to: all of it, a section, or a term with what is said of it.
  const part = (page, anchor) => {
    const place = (anchor && page.getElementById(anchor.slice(1))) || page.querySelector("article");
    if (!place?.matches("dt")) return place ?? page.body;
    let said = place;
    while (said.matches("dt") && said.nextElementSibling) said = said.nextElementSibling;
    const both = page.createElement("div");
    both.append(place, said);
    return both;
  };

  Search.htmlToText = (html, anchor) => {
    const shown = part(new DOMParser().parseFromString(html, "text/html"), anchor);
    const all = (query) => [...shown.querySelectorAll(query)];
    // A formula is in its page as MathML, as TeX and as pieces to look at: MathML stays, with marks for what it raises.
    all(".headerlink, script, style, summary, annotation, .katex-html").forEach((thing) => thing.remove());
    all("msub > :last-child, msubsup > :nth-child(2), munder:not([accentunder]) > :last-child, munderover > :nth-child(2)")
      .forEach((low) => low.prepend("_"));
    all("msup > :last-child, msubsup > :last-child, mover:not([accent]) > :last-child, munderover > :last-child")
      .forEach((high) => high.prepend("^"));
    all("mfrac > :last-child").forEach((below) => below.prepend("/"));
    // Where a page is typeset by the browser there is TeX alone: it stays, without its delimiters.
    all(".math:not(:has(.katex))").forEach((tex) => (tex.textContent = tex.textContent.replace(/\\[()[\]]/g, "")));
    // What a chapter says comes before its code and its numbers.
    shown.append(...all(".cell .highlight, .cell_output table"));
    all("p, li, dt, dd, th, td, div, h1, h2, h3, h4, figcaption, pre, mtr, .eqno").forEach((block) => block.append(" "));
    return shown.textContent.replace(/[\s\u2061]+/g, " ").replace(/\u200b/g, "").trim();
  };

  Search.makeSearchSummary = (html, stems, anchor) => {
    const text = Search.htmlToText(html, anchor);
    // "librari" is the stem of "library".
    const words = [...stems].map((stem) => text.search(new RegExp(_escapeRegExp(stem).replace(/i$/, "[iy]"), "i")));
    const found = Math.max(0, Math.min(...words.filter((place) => place >= 0), text.length));
    const start = found < 120 || found === text.length ? 0 : text.indexOf(" ", found - 120) + 1;
    const end = start + 240 < text.length ? text.lastIndexOf(" ", start + 240) : text.length;
    const summary = document.createElement("p");
    summary.className = "context";
    summary.textContent = `${start ? "… " : ""}${text.slice(start, end)}${end < text.length ? " …" : ""}`;
    return text ? summary : null;
  };
});
