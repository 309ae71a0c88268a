"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const ranking = byId("ranking");
  const body = ranking.tBodies[0];
  const titles = new Map(document.title ? [["", document.title]] : []);

  const valueOf = (row, column, kind) => {
    const cell = row.cells[column];
    if (kind === "text") return cell.textContent.trim();
    const value = cell.dataset.value;
    return value === undefined || value === "" ? null : Number(value);
  };

  // What has no value stands last, whichever way.
  const sortBy = (table, heading, direction) => {
    const column = heading.cellIndex;
    const kind = heading.dataset.kind;
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = [...table.tBodies[0].rows].map((row) => [valueOf(row, column, kind), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (kind === "text" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    });
    table.tBodies[0].append(...keyed.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", direction);
    linkNeighbours();
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      heading.querySelector("button").addEventListener("click", () => {
        const before = heading.getAttribute("aria-sort");
        // Of scores the low ones are looked for, of names the first.
        sortBy(table, heading, before === "ascending" ? "descending" : "ascending");
      });
    }
  }

  const visibleRows = () => [...body.rows].filter((row) => !row.hidden);
  const linkOf = (row) => row.querySelector("td.name a");

  // Next and previous follow the order and the filter of the ranking.
  const linkNeighbours = () => {
    const keys = visibleRows().map((row) => linkOf(row).hash);
    for (const article of document.querySelectorAll("article")) {
      const place = keys.indexOf("#" + article.id);
      const ends = { previous: place > 0 ? keys[place - 1] : null, next: place >= 0 ? keys[place + 1] : null };
      for (const [name, key] of Object.entries(ends)) {
        const link = article.querySelector("a." + name);
        link.hidden = !key;
        if (key) link.setAttribute("href", key);
      }
    }
  };

  const text = byId("filter-text");
  const most = byId("filter-score");
  const set = byId("filter-set");
  const warned = byId("filter-warnings");
  const applyFilters = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const limit = most.value === "" ? Infinity : Number(most.value);
    for (const row of body.rows) {
      const prompt = row.querySelector("td.prompt");
      const content = [linkOf(row).textContent, prompt ? prompt.textContent : "", row.dataset.warnings].join(" ").toLowerCase();
      const isShown =
        words.every((word) => content.includes(word)) &&
        Number(row.querySelector("[data-score]").dataset.value) <= limit &&
        (!set || set.value === "" || row.dataset.set === set.value) &&
        (!warned.checked || row.dataset.warnings !== "");
      row.hidden = !isShown;
    }
    byId("count").textContent = visibleRows().length + " of " + body.rows.length;
    linkNeighbours();
  };
  byId("filters").addEventListener("input", applyFilters);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());

  const shown = () => (location.hash.length > 1 ? document.querySelector("article:target") : null);
  let opened = null;
  const follow = () => {
    const article = shown();
    document.title = article ? article.querySelector("h1").textContent : titles.get("");
    if (article) {
      opened = article.id;
      article.focus({ preventScroll: true });
      scrollTo(0, 0);
    } else if (opened) {
      const link = body.querySelector('a[href="#' + opened + '"]');
      if (link) link.focus();
    }
  };
  addEventListener("hashchange", follow);

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = event.target.matches("input:not([type=checkbox]), select");
    const article = shown();
    if (event.key === "Escape") {
      if (article) location.hash = "";
      else if (isTyping) event.target.blur();
    } else if (isTyping) {
      return;
    } else if (article && (event.key === "n" || event.key === "p")) {
      const link = article.querySelector(event.key === "n" ? "a.next" : "a.previous");
      if (!link.hidden) location.hash = link.hash;
    } else if (!article && event.key === "/") {
      event.preventDefault();
      text.focus();
    } else if (!article && (event.key === "j" || event.key === "k")) {
      const links = visibleRows().map(linkOf);
      const place = links.indexOf(document.activeElement);
      const next = event.key === "j" ? place + 1 : Math.max(place - 1, 0);
      if (links[next]) links[next].focus();
    }
  });

  applyFilters();
  follow();
})();
