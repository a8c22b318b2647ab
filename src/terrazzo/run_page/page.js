"use strict";
for (const stack of document.querySelectorAll(".stack")) {
  const slider = stack.querySelector("input");
  const move = () => stack.style.setProperty("--at", `${slider.value}%`);
  slider.addEventListener("input", move);
  move();
}
for (const choice of document.querySelectorAll("[name=compare]")) {
  choice.addEventListener("change", () => {
    const [one, two] = choice.value.split(" ");
    for (const stack of document.querySelectorAll(".stack")) {
      for (const map of stack.querySelectorAll("[data-is]")) {
        map.className = map.dataset.is === one ? "before" : "after";
        map.hidden = ![one, two].includes(map.dataset.is);
      }
      stack.querySelector(".one").textContent = one;
      stack.querySelector(".two").textContent = two;
      stack.querySelector("input").setAttribute("aria-label", `${one} to the left, ${two} to the right`);
    }
  });
}
for (const table of document.querySelectorAll("table.sorted")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th button").forEach((button) => {
    const column = button.closest("th").cellIndex;
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const up = head.getAttribute("aria-sort") === "descending";
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        const order = Number.isNaN(Number(x)) || Number.isNaN(Number(y)) ? x.localeCompare(y) : Number(x) - Number(y);
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
}
