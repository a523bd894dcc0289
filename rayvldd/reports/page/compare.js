"use strict";
// What the page cannot do without a script: sort tables, filter rows and pairs, light up one trial in all plots.
// Without it everything is still there to read.

const collator = new Intl.Collator("en", { numeric: true });

function sortValue(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.dataset.words ?? cell.textContent.trim() : Number(cell.dataset.value);
}

// Numbers before words, so that a missing value ("–") comes last in either direction.
function compareRows(column, direction) {
  return (one, other) => {
    const [a, b] = [sortValue(one, column), sortValue(other, column)];
    if (typeof a === "number" && typeof b === "number") return direction * (a - b);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return direction * collator.compare(a, b);
  };
}

for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const body = header.closest("table").tBodies[0];
    const numeric = [...body.rows].some((row) => row.cells[header.cellIndex].dataset.value !== undefined);
    const before = header.getAttribute("aria-sort");
    const ascending = before ? before === "descending" : !numeric; // numbers begin with the largest
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    body.append(...[...body.rows].sort(compareRows(header.cellIndex, ascending ? 1 : -1)));
  });
}

for (const input of document.querySelectorAll("input[data-filters]")) {
  const target = document.getElementById(input.dataset.filters);
  const count = document.querySelector(`[data-count="${input.dataset.filters}"]`);
  const more = document.querySelector(`[data-more="${input.dataset.filters}"]`);
  const filter = () => {
    const items = target.tBodies ? [...target.tBodies[0].rows] : [...target.children];
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = items.filter((item) => words.every((word) => item.textContent.toLowerCase().includes(word)));
    const most = more && !more.dataset.pressed && !words.length ? Number(target.dataset.first) : found.length;
    for (const item of items) item.hidden = true;
    for (const item of found.slice(0, most)) item.hidden = false;
    if (more) more.hidden = found.length <= most;
    count.textContent = `${found.length} of ${items.length}`;
  };
  input.addEventListener("input", filter);
  if (more) more.addEventListener("click", () => { more.dataset.pressed = "yes"; filter(); });
  filter();
}

function light(trial, words, plot) {
  for (const section of document.querySelectorAll(".plot")) {
    const marks = [...section.querySelectorAll(".mark")];
    const mine = marks.filter((mark) => trial && mark.dataset.trial === trial);
    for (const mark of marks) mark.classList.toggle("lit", mine.includes(mark));
    section.classList.toggle("marked", mine.length > 0);
    const told = section === plot ? words : mine.length ? mine[0].querySelector("title").textContent : "";
    section.classList.toggle("has-readout", Boolean(told));
    section.querySelector(".readout").textContent = told || "";
  }
  for (const row of document.querySelectorAll("tr[data-trial]")) row.classList.toggle("lit", row.dataset.trial === trial);
}

for (const mark of document.querySelectorAll(".mark")) {
  const show = () => light(mark.dataset.trial, mark.querySelector("title").textContent, mark.closest(".plot"));
  mark.addEventListener("pointerenter", show);
  mark.addEventListener("click", show);
}
for (const row of document.querySelectorAll("tr[data-trial]")) {
  for (const event of ["pointerenter", "focus", "click"]) row.addEventListener(event, () => light(row.dataset.trial));
}

// One tab stop for the marks of a plot, and one for the rows of a table; the arrow keys go on from there.
function step(event, count, current) {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!by || !count) return -1;
  event.preventDefault();
  return current < 0 ? (by > 0 ? 0 : count - 1) : (current + by + count) % count;
}

for (const svg of document.querySelectorAll(".plot svg[tabindex]")) {
  let current = -1;
  svg.addEventListener("keydown", (event) => {
    const marks = [...svg.querySelectorAll(".mark:not(.out)")];
    const next = step(event, marks.length, current);
    if (next < 0) return;
    current = next;
    const mark = marks[current];
    light(mark.dataset.trial, mark.querySelector("title").textContent, svg.closest(".plot"));
  });
}

for (const body of document.querySelectorAll("tbody")) {
  body.addEventListener("keydown", (event) => {
    const rows = [...body.querySelectorAll("tr[data-trial]:not([hidden])")];
    const next = step(event, rows.length, rows.indexOf(document.activeElement));
    if (next < 0) return;
    for (const row of body.rows) row.tabIndex = -1;
    rows[next].tabIndex = 0;
    rows[next].focus();
  });
}

// One tab stop for the headings of a table, too.
for (const head of document.querySelectorAll("table.sortable thead")) {
  const buttons = [...head.querySelectorAll("button")];
  for (const button of buttons.slice(1)) button.tabIndex = -1;
  head.addEventListener("keydown", (event) => {
    const next = step(event, buttons.length, buttons.indexOf(document.activeElement));
    if (next < 0) return;
    for (const button of buttons) button.tabIndex = -1;
    buttons[next].tabIndex = 0;
    buttons[next].focus();
  });
}

// Only what scrolls is a tab stop. Without the script all of it is.
const scrolled = new ResizeObserver((changes) => {
  for (const { target } of changes) {
    const box = target.closest("pre, .scroll");
    const scrolls = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
});
for (const box of document.querySelectorAll("pre, .scroll, .scroll > table")) scrolled.observe(box);

// Parallel coordinates: dragging along an axis keeps the trials whose line crosses it there.
for (const plot of document.querySelectorAll(".plot.parallel_coordinates")) {
  const svg = plot.querySelector("svg");
  const lines = [...svg.querySelectorAll(".mark")].map((mark) => {
    const numbers = (mark.querySelector("path")?.getAttribute("d").match(/-?[\d.]+/g) || []).map(Number);
    const points = [];
    for (let n = 0; n + 1 < numbers.length; n += 2) points.push([numbers[n], numbers[n + 1]]);
    return { mark, points };
  });
  const axes = [...new Set(lines.flatMap(({ points }) => points.map(([x]) => x.toFixed(1))))].map(Number);
  const ranges = new Map(); // axis -> [top, bottom]
  let drag = null;

  const place = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [point.x, point.y];
  };
  const crosses = (points) => [...ranges].every(([axis, [top, bottom]]) =>
    points.some(([x, y]) => Math.abs(x - axis) < 1 && y >= top && y <= bottom));

  const show = () => {
    for (const old of svg.querySelectorAll(".brush")) old.remove();
    for (const [axis, [top, bottom]] of ranges) {
      const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      for (const [name, value] of Object.entries({ class: "brush", x: axis - 6, y: top, width: 12, height: bottom - top })) box.setAttribute(name, value);
      svg.append(box);
    }
    const kept = new Set();
    for (const { mark, points } of lines) {
      const isIn = crosses(points);
      mark.classList.toggle("out", !isIn);
      if (isIn) kept.add(mark.dataset.trial);
    }
    for (const row of plot.closest("section").querySelectorAll("tr[data-trial]")) row.classList.toggle("out", ranges.size > 0 && !kept.has(row.dataset.trial));
    plot.classList.toggle("has-readout", ranges.size > 0);
    plot.querySelector(".readout").textContent = ranges.size ? `${kept.size} of ${lines.length} trials` : "";
  };

  svg.addEventListener("pointerdown", (event) => {
    const [x, y] = place(event);
    const axis = axes.find((one) => Math.abs(one - x) < 12);
    if (axis === undefined) {
      ranges.clear();
    } else {
      drag = { axis, start: y };
      ranges.delete(axis);
      svg.setPointerCapture(event.pointerId);
    }
    show();
  });
  svg.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const y = place(event)[1];
    if (Math.abs(y - drag.start) > 3) ranges.set(drag.axis, [Math.min(y, drag.start), Math.max(y, drag.start)]);
    show();
  });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => { drag = null; });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && ranges.size) { ranges.clear(); show(); }
  });
}

// Sections of a long page are closed until a link leads to them; on paper all are open.
function openAround(target) {
  for (let fold = target?.querySelector(".fold") || target?.closest(".fold"); fold; fold = fold.parentElement.closest(".fold")) fold.open = true;
}
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", () => openAround(document.getElementById(link.hash.slice(1))));
}
if (location.hash) openAround(document.getElementById(decodeURIComponent(location.hash.slice(1))));
const openAll = () => { for (const fold of document.querySelectorAll(".fold")) fold.open = true; };
window.addEventListener("beforeprint", openAll);
for (const button of document.querySelectorAll("[data-open-all]")) {
  button.hidden = false;
  button.addEventListener("click", openAll);
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") light();
});
