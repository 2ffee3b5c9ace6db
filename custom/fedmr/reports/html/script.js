"use strict";
// The legend of a chart shows the values at the pointer, else the last ones.
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg"), hair = svg.querySelector(".hair"), outputs = chart.querySelectorAll("output");
  const columns = svg.dataset.columns.split(" ").map(Number);
  let shown = columns.length - 1;
  const show = (index, visible) => {
    shown = Math.min(Math.max(index, 0), columns.length - 1);
    hair.setAttribute("transform", `translate(${columns[shown]})`);
    hair.style.visibility = visible ? "visible" : "hidden";
    for (const output of outputs) output.textContent = output.dataset.values.split(" ")[shown];
  };
  svg.addEventListener("pointermove", (event) => {
    const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    const distances = columns.map((column) => Math.abs(column - x));
    show(distances.indexOf(Math.min(...distances)), true);
  });
  svg.addEventListener("pointerleave", () => show(columns.length - 1, false));
  svg.addEventListener("blur", () => show(columns.length - 1, false));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); show(shown + step, true); }
  });
}
// All enlarged tiles of a site show the box of its reference.
for (const panel of document.querySelectorAll(".panel")) {
  const overview = panel.querySelector(".overview svg"), frame = overview.querySelector("rect");
  const slider = panel.querySelector("input"), tiles = panel.querySelectorAll("[data-zoomed]");
  const [width, height] = panel.dataset.size.split(" ").map(Number);
  let [left, top, side] = panel.dataset.box.split(" ").map(Number);
  const look = (x, y) => {
    left = Math.min(Math.max(x, 0), width - side);
    top = Math.min(Math.max(y, 0), height - side);
    const box = { x: left, y: top, width: side, height: side };
    for (const [name, value] of Object.entries(box)) frame.setAttribute(name, value);
    for (const tile of tiles) tile.setAttribute("viewBox", `${left} ${top} ${side} ${side}`);
  };
  const follow = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(overview.getScreenCTM().inverse());
    look(at.x - side / 2, at.y - side / 2);
  };
  overview.addEventListener("pointerdown", follow);
  overview.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") follow(event); });
  overview.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) { event.preventDefault(); look(left + (step[0] * side) / 8, top + (step[1] * side) / 8); }
  });
  slider.addEventListener("input", () => {
    const [x, y] = [left + side / 2, top + side / 2];
    side = Math.min(width, height) / Number(slider.value);
    look(x - side / 2, y - side / 2);
  });
}
