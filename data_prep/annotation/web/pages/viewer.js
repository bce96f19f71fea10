// The image with its boxes: window and level, zoom, pan; draw, move and resize.
import { Magnifier, Ruler } from "/static/measuring.js";

const SVG = "http://www.w3.org/2000/svg";
const HANDLES = [["nw", 0, 0], ["n", 0.5, 0], ["ne", 1, 0], ["e", 1, 0.5], ["se", 1, 1], ["s", 0.5, 1], ["sw", 0, 1], ["w", 0, 0.5]];
const MIN_SIDE = 4; // pixels of the screen; less is a click
// centre and width of the window in units of the first display, 0 dark to 1 bright
export const PRESETS = [["As stored", 0.5, 1], ["Lungs", 0.35, 0.7], ["Mediastinum", 0.68, 0.6], ["Strong contrast", 0.5, 0.55], ["Soft contrast", 0.5, 1.6]];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Viewer {
  // on: {draw(box), change(id, box), choose(id)}
  constructor(pane, on) {
    this.pane = pane;
    this.image = pane.querySelector("#image");
    this.overlay = pane.querySelector("#overlay");
    this.on = on;
    this.items = []; // {id, box, kind, label, chosen}
    this.size = { width: 1, height: 1 };
    this.ticket = 0;
    this.pointers = new Map();
    this.tool = "draw"; // or "window", "ruler"
    this.ruler = new Ruler();
    this.lens = new Magnifier(pane);
    this.reset();
    this.listen();
  }

  reset() {
    this.center = 0.5;
    this.width = 1;
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
    this.drag = null;
    this.refine();
  }

  // spacing: distance of rows and of columns in mm, or null
  show(url, width, height, spacing) {
    this.size = { width, height };
    this.ruler.line = null;
    this.ruler.spacing = spacing;
    this.url = url;
    this.served = { center: 0.5, width: 1 };
    this.image.removeAttribute("src"); // the boxes of one study must never be shown over the image of another
    this.pane.classList.add("loading");
    this.reset();
    this.load(url, this.served, ++this.ticket);
    this.draw();
  }

  // replace the displayed image by a loaded one, unless a newer one was requested
  load(url, served, ticket) {
    const next = new Image();
    next.onload = () => {
      if (ticket !== this.ticket) return;
      Object.assign(next, { id: "image", className: "film", alt: "", draggable: false });
      this.image.replaceWith(next);
      this.image = next;
      this.served = served;
      this.pane.classList.remove("loading", "failed");
      this.draw();
    };
    next.onerror = () => { if (ticket === this.ticket) this.pane.classList.add("failed"); };
    next.src = url;
  }

  // A filter follows the pointer at once; then the same window of the stored values replaces it, so
  // that values clipped by the first display become visible, too.
  refine() {
    clearTimeout(this.timer);
    if (!this.url) return;
    this.timer = setTimeout(() => {
      const { center, width } = this;
      if (center === this.served.center && width === this.served.width) return;
      const first = center === 0.5 && width === 1;
      this.load(first ? this.url : `${this.url}?center=${center}&width=${width}`, { center, width }, ++this.ticket);
    }, 200);
  }

  base() {
    return Math.min(this.pane.clientWidth / this.size.width, this.pane.clientHeight / this.size.height);
  }

  // screen pixels per image pixel, and where the image's corner is
  place() {
    const scale = this.base() * this.zoom;
    const w = this.size.width * scale, h = this.size.height * scale;
    const free = (outer, inner, offset) => (inner <= outer ? (outer - inner) / 2 : clamp((outer - inner) / 2 + offset, outer - inner, 0));
    const left = free(this.pane.clientWidth, w, this.x), top = free(this.pane.clientHeight, h, this.y);
    this.x = w <= this.pane.clientWidth ? 0 : left - (this.pane.clientWidth - w) / 2;
    this.y = h <= this.pane.clientHeight ? 0 : top - (this.pane.clientHeight - h) / 2;
    return { scale, left, top, w, h };
  }

  toImage(clientX, clientY) {
    const frame = this.pane.getBoundingClientRect();
    const { scale, left, top } = this.place();
    return [clamp((clientX - frame.left - left) / scale, 0, this.size.width), clamp((clientY - frame.top - top) / scale, 0, this.size.height)];
  }

  zoomAt(factor, clientX, clientY) {
    const frame = this.pane.getBoundingClientRect();
    const px = clientX === undefined ? this.pane.clientWidth / 2 : clientX - frame.left;
    const py = clientY === undefined ? this.pane.clientHeight / 2 : clientY - frame.top;
    const before = this.place();
    const zoom = clamp(this.zoom * factor, 1, 12);
    const ratio = zoom / this.zoom;
    this.zoom = zoom;
    const scale = this.base() * zoom;
    this.x = px - (px - before.left) * ratio - (this.pane.clientWidth - this.size.width * scale) / 2;
    this.y = py - (py - before.top) * ratio - (this.pane.clientHeight - this.size.height * scale) / 2;
    this.draw();
  }

  panBy(x, y) {
    this.x += x;
    this.y += y;
    this.draw();
  }

  windowBy(width, level) {
    this.width = Number(clamp(this.width * width, 0.02, 8).toFixed(4));
    this.center = Number(clamp(this.center + level, -2, 3).toFixed(4));
    this.draw();
    this.refine();
  }

  setWindow(center, width) {
    Object.assign(this, { center, width });
    this.draw();
    this.refine();
  }

  // the middle of the visible part, in pixels of the image
  middle() {
    const frame = this.pane.getBoundingClientRect();
    return this.toImage(frame.left + frame.width / 2, frame.top + frame.height / 2);
  }

  setTool(name) {
    this.tool = name;
    if (name === "ruler") this.ruler.place(this.middle(), this.size);
    else this.ruler.line = null;
    this.pane.classList.toggle("windowing", name === "window");
    this.draw();
  }

  moveRuler(x, y, end) {
    if (end) this.ruler.moveEnd(x, y, this.size);
    else this.ruler.moveStart(x, y, this.size);
    this.draw();
  }

  // grey out = (grey - (center - width / 2)) / width, as DICOM's linear window, where grey is what
  // the first display would show; the served image may have a window of its own already
  draw() {
    const { scale, left, top, w, h } = this.place();
    Object.assign(this.image.style, { left: `${left}px`, top: `${top}px`, width: `${w}px`, height: `${h}px` });
    const has = this.served || { center: 0.5, width: 1 };
    for (const channel of document.querySelectorAll("#window feComponentTransfer > *")) {
      channel.setAttribute("slope", has.width / this.width);
      channel.setAttribute("intercept", (has.center - has.width / 2 - (this.center - this.width / 2)) / this.width);
    }
    this.pane.classList.toggle("windowed", this.center !== has.center || this.width !== has.width);
    document.getElementById("view").textContent =
      `zoom ${(this.zoom).toFixed(1)}  W ${Math.round(this.width * 255)}  L ${Math.round(this.center * 255)}`;
    this.overlay.replaceChildren(...this.items.flatMap((item) => this.shapes(item, scale, left, top)));
    this.overlay.append(...this.ruler.shapes(scale, left, top));
    this.lens.follow(this.image);
    if (this.drag && this.drag.box) this.overlay.append(this.rect(this.drag.box, scale, left, top, "new"));
  }

  rect([x1, y1, x2, y2], scale, left, top, kind) {
    const rect = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x: left + x1 * scale, y: top + y1 * scale, width: Math.max(0, (x2 - x1) * scale), height: Math.max(0, (y2 - y1) * scale), class: kind })) rect.setAttribute(name, value);
    return rect;
  }

  shapes(item, scale, left, top) {
    const kind = `${item.kind}${item.chosen ? " chosen" : ""}`;
    const rect = this.rect(item.box, scale, left, top, kind);
    rect.dataset.id = item.id;
    const text = document.createElementNS(SVG, "text");
    text.textContent = item.label;
    text.setAttribute("class", kind);
    text.setAttribute("x", left + item.box[0] * scale + 3);
    // a suggestion is labelled below its box, so that it never hides a reader's own label
    text.setAttribute("y", item.kind === "own" ? Math.max(14, top + item.box[1] * scale - 5) : top + item.box[3] * scale + 14);
    const found = [this.rect(item.box, scale, left, top, "halo"), rect, text];
    if (item.chosen && item.kind === "own") {
      for (const [name, fx, fy] of HANDLES) {
        const handle = document.createElementNS(SVG, "circle");
        handle.setAttribute("cx", left + (item.box[0] + fx * (item.box[2] - item.box[0])) * scale);
        handle.setAttribute("cy", top + (item.box[1] + fy * (item.box[3] - item.box[1])) * scale);
        handle.setAttribute("r", this.coarse ? 9 : 5);
        handle.setAttribute("class", `handle ${name}`);
        handle.dataset.handle = name;
        handle.dataset.id = item.id;
        found.push(handle);
      }
    }
    return found;
  }

  // the smallest box under the pointer, the chosen one first
  hit(x, y) {
    const slack = 5 / this.place().scale;
    const inside = this.items.filter(({ box }) => x >= box[0] - slack && x <= box[2] + slack && y >= box[1] - slack && y <= box[3] + slack);
    const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
    return inside.find((item) => item.chosen) || inside.sort((a, b) => area(a) - area(b))[0];
  }

  begin(event) {
    if (this.pane.classList.contains("opening")) return null; // the next study is loading
    const [x, y] = this.toImage(event.clientX, event.clientY);
    const start = { x, y, px: event.clientX, py: event.clientY, moved: false };
    if (event.button === 2 || (event.button === 0 && !event.shiftKey && this.tool === "window")) return { ...start, what: "window" };
    if (event.button === 1 || event.shiftKey) return { ...start, what: "pan" };
    if (this.tool === "ruler") return { ...start, what: "ruler" };
    const handle = event.target.dataset && event.target.dataset.handle;
    const item = handle ? this.items.find(({ id }) => id === event.target.dataset.id) : this.hit(x, y);
    if (handle) return { ...start, what: "resize", handle, item, from: [...item.box] };
    if (item && item.chosen && item.kind === "own") return { ...start, what: "move", item, from: [...item.box] };
    return { ...start, what: "draw", under: item };
  }

  moveTo(event) {
    const drag = this.drag;
    const dx = event.clientX - drag.px, dy = event.clientY - drag.py;
    if (!drag.moved && Math.hypot(dx, dy) < MIN_SIDE) return;
    drag.moved = true;
    if (drag.what === "window" || drag.what === "pan") {
      drag.px = event.clientX;
      drag.py = event.clientY;
      if (drag.what === "pan") this.panBy(dx, dy);
      else this.windowBy(Math.exp(dx / 200), dy / 400);
      return;
    }
    const [x, y] = this.toImage(event.clientX, event.clientY);
    const { width, height } = this.size;
    if (drag.what === "ruler") {
      this.ruler.line = [drag.x, drag.y, x, y];
    } else if (drag.what === "draw") {
      drag.box = [Math.min(x, drag.x), Math.min(y, drag.y), Math.max(x, drag.x), Math.max(y, drag.y)];
    } else if (drag.what === "move") {
      const [x1, y1, x2, y2] = drag.from;
      const mx = clamp(x - drag.x, -x1, width - x2), my = clamp(y - drag.y, -y1, height - y2);
      drag.item.box = [x1 + mx, y1 + my, x2 + mx, y2 + my];
    } else {
      const box = [...drag.from];
      if (drag.handle.includes("w")) box[0] = x;
      if (drag.handle.includes("e")) box[2] = x;
      if (drag.handle.includes("n")) box[1] = y;
      if (drag.handle.includes("s")) box[3] = y;
      drag.item.box = [Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.max(box[0], box[2]), Math.max(box[1], box[3])];
    }
    this.draw();
  }

  end() {
    const drag = this.drag;
    this.drag = null;
    if (!drag) return;
    const big = (box) => box && Math.min(box[2] - box[0], box[3] - box[1]) >= Math.max(2, MIN_SIDE / this.place().scale);
    if (drag.what === "draw" && !drag.moved) this.on.choose(drag.under ? drag.under.id : null);
    else if (drag.what === "draw" && big(drag.box)) this.on.draw(drag.box.map((side) => Math.round(side * 100) / 100));
    else if (drag.moved && drag.item) {
      if (big(drag.item.box)) this.on.change(drag.item.id, drag.item.box.map((side) => Math.round(side * 100) / 100));
      else drag.item.box = drag.from;
    }
    this.draw();
  }

  pinch() {
    const [a, b] = [...this.pointers.values()];
    const now = { d: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
    if (this.two) {
      this.panBy(now.x - this.two.x, now.y - this.two.y);
      if (this.two.d > 0) this.zoomAt(now.d / this.two.d, now.x, now.y);
    }
    this.two = now;
  }

  listen() {
    const pane = this.pane;
    pane.addEventListener("contextmenu", (event) => event.preventDefault());
    pane.addEventListener("pointerdown", (event) => {
      pane.focus({ preventScroll: true });
      this.coarse = event.pointerType === "touch";
      pane.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (this.pointers.size > 1) {
        if (this.drag && this.drag.from) this.drag.item.box = this.drag.from;
        this.drag = this.two = null; // two fingers: the first one must not draw
        this.draw();
      } else this.drag = this.begin(event);
      event.preventDefault();
    });
    pane.addEventListener("pointermove", (event) => {
      if (!this.pointers.has(event.pointerId)) return;
      this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (this.pointers.size > 1) this.pinch();
      else if (this.drag) this.moveTo(event);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      pane.addEventListener(name, (event) => {
        this.pointers.delete(event.pointerId);
        this.two = null;
        if (name === "pointerup") this.end();
        else {
          if (this.drag && this.drag.from) this.drag.item.box = this.drag.from;
          this.drag = null;
          this.draw();
        }
      });
    }
    pane.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomAt(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
    }, { passive: false });
    new ResizeObserver(() => this.draw()).observe(pane);
  }
}
