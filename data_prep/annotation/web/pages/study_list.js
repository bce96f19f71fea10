// The list of studies: built once; later only the row of a changed study is drawn anew.
import { make } from "/static/request.js";

const CHUNK = 50; // rows laid out together: a change in a list of thousands costs one chunk

export class StudyList {
  // open(key) is called when a row is chosen
  constructor(place, open) {
    this.place = place;
    this.open = open;
    this.lines = []; // {key, number, boxes, verdict, started}
    this.places = new Map(); // key -> index in lines
    this.rows = new Map();
    this.current = null;
    this.done = 0;
  }

  show(lines) {
    this.lines = lines;
    this.places = new Map(lines.map((line, at) => [line.key, at]));
    this.rows = new Map(lines.map((line) => {
      const row = make("button", { type: "button", className: "study" });
      row.addEventListener("click", () => this.open(line.key));
      return [line.key, row];
    }));
    this.current = null;
    this.done = 0;
    this.count = make("span", {});
    this.bar = make("progress", { max: lines.length || 1, value: 0 });
    this.place.replaceChildren(make("p", { className: "progress" }, this.count, this.bar), ...this.chunks());
    lines.forEach((line) => this.fill(line));
    this.showProgress();
  }

  chunks() {
    const rows = [...this.rows.values()], made = [];
    for (let at = 0; at < rows.length; at += CHUNK) made.push(make("div", { className: "chunk" }, ...rows.slice(at, at + CHUNK)));
    return made;
  }

  // a study was taken off the reader's list
  drop(key) {
    this.show(this.lines.filter((line) => line.key !== key));
  }

  find(key) {
    return this.lines[this.places.get(key)];
  }

  index(key) {
    return this.places.has(key) ? this.places.get(key) : -1;
  }

  neighbour(key, by) {
    return this.lines[this.index(key) + by];
  }

  // the next study without a verdict, from the top again at the end
  nextOpen(key) {
    const n = this.lines.length, at = this.index(key);
    for (let step = 1; step < n; step += 1) {
      const line = this.lines[(at + step) % n];
      if (!line.verdict) return line;
    }
    return null;
  }

  update(key, reading) {
    const line = this.find(key);
    if (!line) return;
    Object.assign(line, { boxes: reading.annotations.length, verdict: reading.verdict, started: reading.annotations.length > 0 });
    if (this.fill(line)) this.showProgress();
    const row = this.rows.get(key);
    if (row === this.current) return;
    if (this.current) this.current.classList.remove("current");
    row.classList.add("current");
    row.scrollIntoView({ block: "nearest" });
    this.current = row;
  }

  // whether the number of finished studies changed
  fill(line) {
    const row = this.rows.get(line.key);
    const shown = `${line.verdict} ${line.started} ${line.boxes}`;
    if (row.dataset.shown === shown) return false;
    const before = row.classList.contains("done"), after = Boolean(line.verdict);
    row.dataset.shown = shown;
    row.classList.toggle("done", after);
    row.replaceChildren(make("span", { className: "mark" }, line.verdict ? "✓" : line.started ? "◐" : "○"), `Study ${line.number}`,
      make("small", {}, line.boxes ? `${line.boxes} box${line.boxes > 1 ? "es" : ""}` : ""));
    this.done += Number(after) - Number(before);
    return before !== after;
  }

  showProgress() {
    this.count.textContent = `${this.done} of ${this.lines.length} finished`;
    this.bar.value = this.done;
  }
}
