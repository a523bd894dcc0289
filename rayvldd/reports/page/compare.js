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
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") light();
});
