"use strict";
// Sorting, filtering, copying, and photos that are put in when they come into sight. Without it all texts are there.

function say(text) { document.getElementById("said").textContent = text; }

// --- tables

function sortable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (head.tagName !== "TH") return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const rising = head.ariaSort === "descending";
      const key = row => row.cells[column].dataset.sort;
      const text = row => row.cells[column].textContent;
      const rows = [...body.rows].sort((one, other) => {
        const [first, second] = [key(one), key(other)];
        if (first === undefined && second === undefined) return text(one).localeCompare(text(other), "en", {numeric: true});
        if (first === undefined || second === undefined) return first === undefined ? 1 : -1; // without a number: last
        return rising ? first - second : second - first;
      });
      const words = !rows.some(row => key(row) !== undefined);
      if (words && !rising && head.ariaSort === "ascending") rows.reverse();
      const order = words ? (head.ariaSort === "ascending" ? "descending" : "ascending") : (rising ? "ascending" : "descending");
      for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      body.append(...rows);
      say(`Sorted by ${button.textContent}, ${order}.`);
    });
  });
}

function filtering(form) {
  const rows = [...document.getElementById(form.dataset.filters).tBodies[0].rows];
  const output = form.querySelector("output");
  function draw() {
    const text = form.elements.text.value.trim().toLowerCase();
    const off = name => [...form.querySelectorAll(`input[name=${name}]:not(:checked)`)].map(box => box.value);
    const tracks = off("track"), marks = off("mark");
    for (const row of rows) {
      const name = row.querySelector("th").textContent.toLowerCase();
      row.hidden = !name.includes(text) || tracks.includes(row.dataset.track) ||
        row.dataset.marks.split("|").some(mark => marks.includes(mark));
    }
    const left = rows.filter(row => !row.hidden).length;
    output.textContent = left === rows.length ? "" : `${left} of ${rows.length} rows are shown.`;
  }
  form.addEventListener("input", draw);
  form.addEventListener("submit", event => event.preventDefault());
  form.reset(); // a browser that goes back would remember boxes, and not rows
}

// --- commands

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // as where a page from disk may not
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say("Copied.");
}

// --- photos

const held = document.getElementById("photos");
const photos = held ? JSON.parse(held.textContent) : {};

function put(image) {
  if (!image.src) image.src = photos[image.dataset.photo];
}

const sight = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { put(entry.target); sight.unobserve(entry.target); }
}, {rootMargin: "800px"});

// --- what leads to a part that is folded opens it

function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  target.scrollIntoView();
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("form.filters").forEach(filtering);
document.querySelectorAll("img[data-photo]").forEach(image => sight.observe(image));
document.addEventListener("click", event => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  copy(button.dataset.copy).then(() => button.focus());
});
let folded = [];
addEventListener("beforeprint", () => {
  const closed = document.querySelectorAll("details:not([open], .gallery)");
  folded.push(...closed); // there may be two of these before the paper is through
  closed.forEach(each => { each.open = true; });
  document.querySelectorAll("details[open] img[data-photo]").forEach(put);
});
addEventListener("afterprint", () => {
  folded.forEach(each => { each.open = false; });
  folded = [];
});
addEventListener("hashchange", unfold);
unfold();
