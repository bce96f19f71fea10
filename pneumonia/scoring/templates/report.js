"use strict";
// One view (window, level, zoom, position) per case, shared by its two panes.
const SVG = "http://www.w3.org/2000/svg";
const START = { center: 0.5, width: 1, zoom: 1, x: 0, y: 0 };
const views = new Map(); // only of the cases a reader has touched: there may be thousands
const cases = Array.from(document.querySelectorAll(".case"));
let active = null;

function view(item) {
  if (!views.has(item)) views.set(item, { ...START });
  return views.get(item);
}

// grey out = (grey - (center - width / 2)) / width, as DICOM's linear window; 0..1
function greyFilter(item) {
  const id = "wl-" + item.id;
  let filter = document.getElementById(id);
  if (!filter) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("width", "0");
    svg.setAttribute("height", "0");
    svg.setAttribute("aria-hidden", "true");
    filter = svg.appendChild(document.createElementNS(SVG, "filter"));
    filter.id = id;
    filter.setAttribute("color-interpolation-filters", "sRGB");
    const transfer = filter.appendChild(document.createElementNS(SVG, "feComponentTransfer"));
    for (const channel of ["R", "G", "B"]) {
      transfer.appendChild(document.createElementNS(SVG, "feFunc" + channel)).setAttribute("type", "linear");
    }
    svg.style.position = "absolute";
    item.appendChild(svg);
  }
  return filter;
}

function draw(item) {
  const v = view(item);
  const windowed = v.center !== 0.5 || v.width !== 1;
  if (windowed) {
    for (const channel of greyFilter(item).firstChild.children) {
      channel.setAttribute("slope", 1 / v.width);
      channel.setAttribute("intercept", -(v.center - v.width / 2) / v.width);
    }
    item.style.setProperty("--window", `url(#wl-${item.id})`);
  }
  item.classList.toggle("windowed", windowed);
  for (const sheet of item.querySelectorAll(".sheet")) {
    const pane = sheet.parentElement;
    v.x = Math.min(0, Math.max(pane.clientWidth * (1 - v.zoom), v.x));
    v.y = Math.min(0, Math.max(pane.clientHeight * (1 - v.zoom), v.y));
    sheet.style.transform = v.zoom === 1 ? "" : `translate(${v.x}px, ${v.y}px) scale(${v.zoom})`;
  }
  item.dataset.view = `${v.center.toFixed(3)} ${v.width.toFixed(3)} ${v.zoom.toFixed(2)}`;
}

function zoomBy(item, factor, px, py) {
  const v = view(item);
  const zoom = Math.min(8, Math.max(1, v.zoom * factor));
  v.x = px - (px - v.x) * (zoom / v.zoom);
  v.y = py - (py - v.y) * (zoom / v.zoom);
  v.zoom = zoom;
  draw(item);
}

function windowBy(item, width, level) {
  const v = view(item);
  v.width = Math.min(4, Math.max(0.02, v.width * width));
  v.center = Math.min(1.5, Math.max(-0.5, v.center + level));
  draw(item);
}

function moveBy(item, x, y) {
  const v = view(item);
  v.x += x;
  v.y += y;
  draw(item);
}

function reset(item) {
  views.set(item, { ...START });
  draw(item);
}

function activate(item, scroll) {
  if (active && active !== item) active.classList.remove("active");
  active = item;
  item.classList.add("active");
  if (scroll) {
    item.scrollIntoView({ block: "start" });
    const pane = item.querySelector(".pane");
    if (pane) pane.focus({ preventScroll: true });
  }
}

function step(by) {
  if (!cases.length) return;
  const at = active ? cases.indexOf(active) + by : 0;
  activate(cases[Math.min(cases.length - 1, Math.max(0, at))], true);
}

function press(id, on) {
  const button = document.getElementById(id);
  if (button) button.setAttribute("aria-pressed", String(on));
}

function toggleBoxes() {
  press("boxes", !document.body.classList.toggle("no-boxes"));
}

function toggleInvert() {
  press("invert", document.body.classList.toggle("inverted"));
}

function resetAll() {
  document.body.classList.remove("inverted");
  press("invert", false);
  for (const item of views.keys()) reset(item);
}

function toggleHelp(show) {
  const help = document.getElementById("help");
  if (!help) return;
  help.hidden = show === undefined ? !help.hidden : !show;
  document.getElementById("keys").setAttribute("aria-expanded", String(!help.hidden));
}

function listen(item, pane) {
  let drag = null;
  pane.addEventListener("pointerdown", (event) => {
    activate(item, false);
    if (event.pointerType === "touch" || event.button > 1) return;
    pane.focus({ preventScroll: true });
    pane.setPointerCapture(event.pointerId);
    drag = { x: event.clientX, y: event.clientY, move: event.shiftKey || event.button === 1 };
    event.preventDefault();
  });
  pane.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const x = event.clientX - drag.x;
    const y = event.clientY - drag.y;
    drag.x = event.clientX;
    drag.y = event.clientY;
    if (drag.move) moveBy(item, x, y);
    else windowBy(item, Math.exp(x / 200), y / 400);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    pane.addEventListener(end, () => { drag = null; });
  }
  pane.addEventListener("dblclick", () => reset(item));
  pane.addEventListener("focus", () => activate(item, false));
  pane.addEventListener("wheel", (event) => {
    // the page scrolls on until the reader has clicked into the image
    if (document.activeElement !== pane && !event.ctrlKey) return;
    event.preventDefault();
    const frame = pane.getBoundingClientRect();
    zoomBy(item, Math.exp(-event.deltaY / 400), event.clientX - frame.left, event.clientY - frame.top);
  }, { passive: false });
}

for (const item of cases) {
  for (const pane of item.querySelectorAll(".pane")) listen(item, pane);
}

function onActive(action) {
  return () => { if (active) action(active); };
}

function zoomCentre(factor) {
  return onActive((item) => {
    const pane = item.querySelector(".pane");
    if (pane) zoomBy(item, factor, pane.clientWidth / 2, pane.clientHeight / 2);
  });
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  b: toggleBoxes,
  i: toggleInvert,
  r: onActive(reset),
  "+": zoomCentre(1.25),
  "=": zoomCentre(1.25),
  "-": zoomCentre(0.8),
  "[": onActive((item) => windowBy(item, 0.9, 0)),
  "]": onActive((item) => windowBy(item, 1 / 0.9, 0)),
  ",": onActive((item) => windowBy(item, 1, 0.03)),
  ".": onActive((item) => windowBy(item, 1, -0.03)),
  "?": () => toggleHelp(),
  Escape: () => {
    toggleHelp(false);
    if (document.activeElement) document.activeElement.blur();
  },
};
const ARROWS = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  const zoomed = active && view(active).zoom > 1 && event.target.classList.contains("pane");
  const arrow = zoomed ? ARROWS[event.key] : undefined;
  const action = arrow ? () => moveBy(active, ...arrow) : KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

function click(id, action) {
  const button = document.getElementById(id);
  if (button) button.addEventListener("click", action);
}

click("boxes", toggleBoxes);
click("invert", toggleInvert);
click("reset", resetAll);
click("keys", () => toggleHelp());

const flagBox = document.getElementById("flag");
const nameBox = document.getElementById("name");

function filterList() {
  const wanted = nameBox.value.trim().toLowerCase();
  let shown = 0;
  const rows = document.querySelectorAll("#list tbody tr");
  for (const row of rows) {
    const fits = (!flagBox.value || row.dataset.flag === flagBox.value) && row.textContent.toLowerCase().includes(wanted);
    row.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} shown`;
}

flagBox.addEventListener("change", filterList);
nameBox.addEventListener("input", filterList);
