// Of a page that stands alone: tables that sort, values under the pointer, a clip to listen to.
// Without it the page shows the same tables and figures, and the browser's own player.
"use strict";

/** Number that a cell such as "41.2 ± 0.3", "< 0.001" or "[-1.0, +2.0]" begins with, or NaN. */
function numberOf(text) {
  const found = /^[[<>\s]*([+\-\u2212]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?)/i.exec(text);
  return found ? Number(found[1].replace(/,/g, "").replace("\u2212", "-")) : NaN;
}

function isMissing(text) {
  return text === "" || text === "-" || text === "\u2013";
}

/** Rows in the order of a column; those without a value come last. */
function sorted(rows, column, direction) {
  const keyed = rows.map((row) => [row.cells[column].textContent.trim(), row]);
  const known = keyed.filter(([text]) => !isMissing(text));
  const numeric = known.every(([text]) => !Number.isNaN(numberOf(text)));
  known.sort(([a], [b]) =>
    direction * (numeric ? numberOf(a) - numberOf(b) : a.localeCompare(b, "en", { numeric: true })));
  return [...known, ...keyed.filter(([text]) => isMissing(text))].map(([, row]) => row);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const asWritten = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    if (!button.textContent.trim()) button.setAttribute("aria-label", "name");
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const after = { none: "ascending", ascending: "descending", descending: "none" }[before];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", after);
      const rows = after === "none"
        ? asWritten : sorted(asWritten, column, after === "ascending" ? 1 : -1);
      body.append(...rows);
    });
  });
}

/** Place of a value on an axis that runs from one end to the other. */
function placeOf(value, axis, from, to) {
  const scale = axis.log ? Math.log10 : Number;
  const [low, high] = axis.limits.map(scale);
  return from + (to - from) * (scale(value) - low) / (high - low);
}

function valueAt(place, axis, from, to) {
  const [low, high] = axis.limits;
  return low + (high - low) * (place - from) / (to - from);
}

function isInside([left, top, right, bottom], x, y) {
  return left <= x && x <= right && top <= y && y <= bottom;
}

function draw(svg, name, attributes) {
  const shape = document.createElementNS(svg.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
  svg.append(shape);
  return shape;
}

/** Place of a pointer in the units of the figure. */
function pointIn(svg, event) {
  const seen = svg.getBoundingClientRect();
  const scale = svg.viewBox.baseVal.width / seen.width;
  return [(event.clientX - seen.left) * scale, (event.clientY - seen.top) * scale];
}

const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);

function show(rows, event) {
  tip.replaceChildren(...rows.map(([text, colour]) => {
    const line = document.createElement("div");
    if (colour) {
      const mark = document.createElement("i");
      mark.style.background = colour;
      line.append(mark);
    }
    line.append(text);
    return line;
  }));
  tip.hidden = rows.length === 0;
  const room = document.documentElement;
  const left = Math.min(event.clientX + 14, room.clientWidth - tip.offsetWidth - 4);
  const below = event.clientY + 16;
  const fits = below + tip.offsetHeight < room.clientHeight;
  tip.style.left = `${Math.max(left, 4)}px`;
  tip.style.top = `${fits ? below : event.clientY - tip.offsetHeight - 12}px`;
}

/** What a panel says at a place: the values of its lines at the nearest point, and what is there. */
function told(panel, x, y) {
  const [left, top, right, bottom] = panel.box;
  const rows = [];
  const dots = [];
  let nearest = null;
  let least = Infinity;
  for (const line of panel.lines) {
    for (const value of line.x) {
      const distance = Math.abs(placeOf(value, panel.x, left, right) - x);
      if (distance < least) [nearest, least] = [value, distance];
    }
  }
  if (nearest !== null) rows.push([`${panel.x.name} ${nearest}${panel.x.unit}`.trim(), null]);
  for (const line of panel.lines) {
    const at = line.x.indexOf(nearest);
    if (at < 0) continue;
    rows.push([`${line.name} ${line.y[at]}${panel.y.unit}`, line.colour]);
    dots.push([
      placeOf(nearest, panel.x, left, right), placeOf(line.y[at], panel.y, bottom, top), line.colour,
    ]);
  }
  for (const area of panel.areas) if (isInside(area.box, x, y)) rows.push([area.text, null]);
  return [rows, dots];
}

/** The figure whose values are shown, and what was drawn in it for that. */
let shown = { svg: null, shapes: [], touched: false };

function clear() {
  shown.shapes.forEach((shape) => shape.remove());
  shown = { svg: null, shapes: [], touched: false };
  tip.hidden = true;
}

function look(svg, panels, event) {
  clear();
  const [x, y] = pointIn(svg, event);
  const panel = panels.find(({ box }) => isInside(box, x, y));
  if (!panel) return;
  const [rows, dots] = told(panel, x, y);
  const shapes = dots.map(([cx, cy, colour]) =>
    draw(svg, "circle", { class: "dot", cx, cy, r: 2.6, style: `fill: ${colour}` }));
  if (dots.length) {
    const [[x1], [, y1, , y2]] = [dots[0], panel.box];
    shapes.push(draw(svg, "line", { class: "guide", x1, x2: x1, y1, y2 }));
  }
  shown = { svg, shapes, touched: event.pointerType === "touch" };
  show(rows, event);
}

// A finger leaves as soon as it is lifted: what it touched stays until it touches elsewhere.
document.addEventListener("pointerdown", (event) => {
  if (shown.svg && !shown.svg.contains(event.target)) clear();
});
document.addEventListener("scroll", () => { if (shown.touched) clear(); }, true);

for (const figure of document.querySelectorAll("figure[data-values]")) {
  const svg = figure.querySelector("svg");
  const { panels } = JSON.parse(document.getElementById(figure.dataset.values).textContent);
  svg.addEventListener("pointermove", (event) => look(svg, panels, event));
  svg.addEventListener("pointerdown", (event) => look(svg, panels, event));
  svg.addEventListener("pointerleave", () => { if (!shown.touched) clear(); });
  if (figure.classList.contains("player")) addPlayer(figure, svg, panels);
}

/** Put a button, a slider and a cursor over the panels in the place of the browser's player. */
function addPlayer(figure, svg, panels) {
  const audio = figure.querySelector("audio");
  const name = audio.getAttribute("aria-label");
  const seconds = Number(audio.dataset.seconds);
  const controls = document.createElement("div");
  const button = document.createElement("button");
  const slider = document.createElement("input");
  const clock = document.createElement("output");
  controls.className = "controls";
  button.type = "button";
  slider.type = "range";
  Object.assign(slider, { min: 0, max: seconds, step: 0.01, value: 0 });
  slider.setAttribute("aria-label", `Position in ${name} (seconds)`);
  clock.setAttribute("aria-live", "off");
  controls.append(button, slider, clock);
  audio.controls = false;
  audio.before(controls);

  const plot = svg.parentElement;
  const cursors = panels.map(({ box: [, y1, , y2] }) => draw(svg, "line", { class: "cursor", y1, y2 }));
  const update = () => {
    const time = audio.currentTime;
    panels.forEach(({ box: [left, , right], x }, place) => {
      const at = placeOf(Math.min(time, x.limits[1]), x, left, right);
      cursors[place].setAttribute("x1", at);
      cursors[place].setAttribute("x2", at);
    });
    slider.value = time;
    clock.textContent = `${time.toFixed(1)} / ${seconds.toFixed(1)} s`;
    const doing = audio.paused ? "Play" : "Pause";
    button.textContent = doing;
    button.setAttribute("aria-label", `${doing} ${name}`);
  };
  const run = () => {
    update();
    // On a narrow screen the figure is wider than what is seen of it.
    const at = audio.currentTime / panels[0].x.limits[1] * plot.scrollWidth;
    if (at < plot.scrollLeft || at > plot.scrollLeft + 0.85 * plot.clientWidth) {
      plot.scrollLeft = at - 0.15 * plot.clientWidth;
    }
    if (!audio.paused) requestAnimationFrame(run);
  };
  const refuse = () => {
    clock.textContent = "This browser cannot play the clip.";
    button.disabled = true;
  };
  button.addEventListener("click", () => {
    if (audio.paused) audio.play().catch(refuse);
    else audio.pause();
  });
  slider.addEventListener("input", () => { audio.currentTime = Number(slider.value); });
  svg.addEventListener("click", (event) => {
    const [x, y] = pointIn(svg, event);
    const panel = panels.find(({ box }) => isInside(box, x, y));
    if (panel) audio.currentTime = valueAt(x, panel.x, panel.box[0], panel.box[2]);
  });
  audio.addEventListener("play", run);
  for (const name of ["pause", "ended", "seeked", "timeupdate"]) audio.addEventListener(name, update);
  update();
}
