// Makes tables that can be filtered; what has no room is counted.

import { h } from "./dom.js";
import { count } from "./words.js";

const ROWS = 200;
const filters = new Map(); // table -> text; kept while the page is open

export function setFilter(table, text) {
  filters.set(table, text);
}

// columns: [title, row -> content, "number"?]; key: row -> text; words: row -> what the filter looks at;
// most: rows that are shown
export function table(id, title, columns, rows, { key, words = null, none = "none", most = ROWS }) {
  const asked = (filters.get(id) ?? "").trim().toLowerCase();
  const found = asked && words ? rows.filter((row) => words(row).toLowerCase().includes(asked)) : rows;
  const field = words && (rows.length > 8 || asked) && h("label", { class: "filter" }, "filter ",
    h("input", { type: "search", "data-filter": id, spellcheck: "false", autocomplete: "off", maxlength: 200, "aria-label": `filter ${title}` }));
  return h("section", { "data-key": `table ${id}`, "aria-labelledby": `title-${id}` },
    h("div", { class: "head" }, h("h2", { id: `title-${id}` }, title, h("small", null, ` ${count(found.length)}`)), field),
    found.length === 0 ? h("p", { class: "none", "data-key": "none" }, asked ? "nothing matches" : none)
      : h("div", { class: "scroll", "data-key": "rows", tabindex: 0, role: "region", "aria-labelledby": `title-${id}` },
        h("table", null,
          h("thead", null, h("tr", null, columns.map(([head, , kind]) => h("th", { scope: "col", class: kind }, head)))),
          h("tbody", null, found.slice(0, most).map((row) => h("tr", { "data-key": key(row) },
            columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row)))))))),
    found.length > most && h("p", { class: "none", "data-key": "more" }, `and ${count(found.length - most)} more: the filter finds them`));
}
