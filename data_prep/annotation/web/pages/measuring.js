// Ruler and magnifier over the image.
const SVG = "http://www.w3.org/2000/svg";
const MAGNIFIED = 2.5; // relative to the pane

// Length of a line between two points of the image; mm by the header's pixel spacing, else pixels.
export function lengthText([x1, y1, x2, y2], spacing) {
  if (!spacing) return `${Math.hypot(x2 - x1, y2 - y1).toFixed(0)} px`;
  const [row, column] = spacing;
  return `${Math.hypot((x2 - x1) * column, (y2 - y1) * row).toFixed(1)} mm`;
}

export class Ruler {
  constructor() {
    this.line = null; // [x1, y1, x2, y2] in pixels of the image
    this.spacing = null; // [row, column] in mm
  }

  // a line to begin with, so that the keyboard has something to move
  place(center, size) {
    const [x, y] = center;
    this.line = [x - size.width / 10, y, x + size.width / 10, y];
  }

  moveEnd(x, y, size) {
    if (!this.line) return;
    const clamp = (value, high) => Math.min(high, Math.max(0, value));
    this.line = [this.line[0], this.line[1], clamp(this.line[2] + x, size.width), clamp(this.line[3] + y, size.height)];
  }

  moveStart(x, y, size) {
    if (!this.line) return;
    this.line = [this.line[2], this.line[3], this.line[0], this.line[1]];
    this.moveEnd(x, y, size);
    this.line = [this.line[2], this.line[3], this.line[0], this.line[1]];
  }

  shapes(scale, left, top) {
    if (!this.line) return [];
    const [x1, y1, x2, y2] = this.line.map((side, i) => (i % 2 ? top : left) + side * scale);
    const made = (name, attributes) => {
      const element = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      return element;
    };
    const text = made("text", { x: Math.max(x1, x2) + 8, y: (y1 + y2) / 2 + 4, class: "ruler" });
    text.textContent = lengthText(this.line, this.spacing);
    return [made("line", { x1, y1, x2, y2, class: "ruler halo" }), made("line", { x1, y1, x2, y2, class: "ruler" }),
      ...[[x1, y1], [x2, y2]].map(([cx, cy]) => made("circle", { cx, cy, r: 3, class: "ruler" })), text];
  }
}

// A round lens that follows the pointer; without one it stands in the middle of the pane.
export class Magnifier {
  constructor(pane) {
    this.pane = pane;
    this.lens = pane.querySelector("#lens");
    this.film = this.lens.querySelector("img");
    this.at = null; // pixels of the pane
    pane.addEventListener("pointermove", (event) => {
      const frame = pane.getBoundingClientRect();
      this.at = [event.clientX - frame.left, event.clientY - frame.top];
      this.move();
    });
  }

  get on() {
    return !this.lens.hidden;
  }

  toggle() {
    this.lens.hidden = this.on;
    this.move();
    return this.on;
  }

  // image: the displayed element; its style holds its place in the pane
  follow(image) {
    this.image = image;
    this.move();
  }

  move() {
    if (!this.on || !this.image || !this.image.src) return;
    if (this.film.src !== this.image.src) this.film.src = this.image.src;
    const [x, y] = this.at || [this.pane.clientWidth / 2, this.pane.clientHeight / 2];
    const radius = this.lens.offsetWidth / 2;
    const left = parseFloat(this.image.style.left), top = parseFloat(this.image.style.top);
    Object.assign(this.lens.style, { left: `${x - radius}px`, top: `${y - radius}px` });
    Object.assign(this.film.style, {
      width: `${parseFloat(this.image.style.width) * MAGNIFIED}px`, height: `${parseFloat(this.image.style.height) * MAGNIFIED}px`,
      left: `${radius - (x - left) * MAGNIFIED}px`, top: `${radius - (y - top) * MAGNIFIED}px`,
    });
  }
}
