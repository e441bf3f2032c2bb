// Data, theme, sorting and filtering. Text from files only ever becomes text nodes, never markup.
"use strict";
window.outdo = (() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);

  /** Make an element: el("td", {class: "num"}, "text", child, ...). */
  function el(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  /** The same for SVG. */
  function svg(name, attributes = {}, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  /** The page's state in the address: #game=3&ply=5 */
  function hash() {
    return new URLSearchParams(location.hash.slice(1));
  }

  function setTheme(name) {
    document.documentElement.dataset.theme = name;
    const words = { auto: "system", light: "light", dark: "dark" };
    document.getElementById("theme").textContent = "Theme: " + words[name];
    try {
      localStorage.setItem("outdo-theme", name);
    } catch {
      /* a page from a file may have no storage */
    }
  }

  function themes() {
    const order = ["auto", "light", "dark"];
    let name = new URLSearchParams(location.search).get("theme");
    try {
      name = name || localStorage.getItem("outdo-theme");
    } catch {
      /* see above */
    }
    setTheme(order.includes(name) ? name : "auto");
    document.getElementById("theme").addEventListener("click", () => {
      setTheme(order[(order.indexOf(document.documentElement.dataset.theme) + 1) % order.length]);
    });
  }

  function sortTable(table, header) {
    const column = [...header.parentNode.children].indexOf(header);
    const down = header.getAttribute("aria-sort") === "descending";
    const sign = down ? 1 : -1;
    const numeric = header.dataset.sort === "number";
    const key = (row) => row.children[column].dataset.value ?? "";
    const compare = (a, b) => {
      if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === ""); // what is missing stays last
      return sign * (numeric ? key(a) - key(b) : key(a).localeCompare(key(b)));
    };
    for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "ascending" : "descending");
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  }

  function sortable(table) {
    for (const header of table.querySelectorAll("thead th[data-sort]")) {
      const button = el("button", { type: "button" });
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sortTable(table, header));
    }
  }

  /** The value of a group of radio buttons, or a fallback where the page has no such group. */
  function chosen(name, fallback = "") {
    const inputs = [...document.getElementsByName(name)];
    return inputs.length ? inputs.find((i) => i.checked).value : fallback;
  }

  function filters() {
    const table = document.getElementById("players-table");
    if (!table) return;
    const apply = () => {
      const opponent = chosen("filter-opponent"),
        decode = chosen("filter-decode");
      for (const row of table.tBodies[0].rows) {
        row.hidden = Boolean(
          (opponent && row.dataset.opponent !== opponent) || (decode && row.dataset.decode !== decode),
        );
      }
    };
    for (const name of ["filter-opponent", "filter-decode"]) {
      for (const input of document.getElementsByName(name)) input.addEventListener("change", apply);
    }
    const more = document.getElementById("more-columns");
    if (more) {
      const section = document.getElementById("players");
      more.addEventListener("change", () => section.classList.toggle("with-more", more.checked));
    }
    apply();
  }

  /** Mark in the contents which section is being read. */
  function contents() {
    const links = new Map([...document.querySelectorAll(".contents a")].map((a) => [a.hash.slice(1), a]));
    const observer = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          for (const a of links.values()) a.removeAttribute("aria-current");
          links.get(entry.target.id)?.setAttribute("aria-current", "true");
        }
      },
      { rootMargin: "-15% 0px -75% 0px" },
    );
    for (const id of links.keys()) observer.observe(document.getElementById(id));
  }

  themes();
  document.querySelectorAll("table.sortable").forEach(sortable);
  filters();
  contents();
  return { data, el, svg, hash, chosen };
})();
