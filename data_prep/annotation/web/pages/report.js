// The report with its mentions (present, uncertain, denied, earlier), and the reader's revisions.
import { button, make } from "/static/request.js";

export const STATES = { present: "Present", uncertain: "Uncertain", absent: "Denied", prior: "Earlier" };

// The linker's mentions with the reader's decisions in their place, in the order of the text.
export function mergedLinks(proposed, decisions) {
  const bySpan = new Map(proposed.map((link) => [linkId(link), { ...link, proposed: link, decided: false }]));
  for (const link of decisions) {
    const known = bySpan.get(linkId(link));
    bySpan.set(linkId(link), { ...link, proposed: known ? known.proposed : null, decided: true });
  }
  return [...bySpan.values()].sort((a, b) => a.start - b.start || b.end - a.end);
}

export function linkId({ start, end }) {
  return `mention:${start}-${end}`;
}

// a link in the form that the typing panel needs
export function linkItem(link, text) {
  return { link, words: Array.from(text).slice(link.start, link.end).join(""), code: link.code, coarse: "" };
}

export class ReportPanel {
  // on: {choose(id), add(start, end), reveal(), acceptAll()}
  constructor(place, on) {
    this.place = place;
    this.on = on;
    this.shown = "";
    this.keySpan = ""; // characters that were selected by keys
    document.addEventListener("selectionchange", () => this.offerSelection());
  }

  // view: {report, links, chosen, used, hidden, canReveal}
  show(view) {
    const shown = JSON.stringify(view);
    if (shown === this.shown) return; // keeps the place that the reader has scrolled to
    const sameText = this.text && this.view && this.view.report && view.report && this.view.report.text === view.report.text;
    const scrolled = sameText ? this.text.scrollTop : 0;
    const focused = this.place.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    this.shown = shown;
    this.view = view;
    this.text = null;
    if (view.hidden) return this.place.replaceChildren(make("p", { className: "hint" }, "Report and suggestions are shown after your first verdict."));
    if (!view.report) return this.place.replaceChildren(...(view.canReveal ? [button("Show report and suggestions", () => this.on.reveal())] : []));
    this.text = this.body(view);
    const open = view.links.filter((link) => !link.decided).length;
    this.extra = make("div", { className: "row" });
    const head = make("div", { className: "head" }, make("h2", {}, "Report"),
      view.links.length ? make("small", {}, open ? `${open} of ${view.links.length} links not reviewed` : "all links reviewed") : null,
      open ? button("Accept all", () => this.on.acceptAll(), "Accept every link as it is") : null);
    const refused = view.report.reason ? [make("p", { className: "hint" }, `The report cannot be used: ${view.report.reason}.`)] : [];
    this.place.replaceChildren(head, ...refused, this.text, this.extra);
    this.text.scrollTop = scrolled;
    const mark = this.text.querySelector("mark.chosen, mark.used");
    if (mark && (mark.offsetTop < scrolled || mark.offsetTop > scrolled + this.text.clientHeight - 20)) this.text.scrollTop = mark.offsetTop - this.text.clientHeight / 2;
    if (focused) {
      const again = this.text.querySelector(`mark[data-id="${focused}"]`);
      if (again) again.focus({ preventScroll: true });
    }
  }

  body({ report, links, chosen, used }) {
    const body = make("p", { className: "text" });
    const letters = Array.from(report.text); // offsets count characters, not UTF-16 units
    let at = 0;
    for (const link of links) {
      if (link.start < at) continue; // inside a longer mention
      body.append(letters.slice(at, link.start).join(""));
      const id = linkId(link);
      const kind = link.code === "NIL" ? "nil" : link.assertion;
      const label = link.code === "NIL" ? "no finding" : `${link.code.replaceAll("/", " / ")}, ${STATES[link.assertion].toLowerCase()}`;
      const classes = [kind, link.decided ? "decided" : "", id === chosen ? "chosen" : "", used === link.start ? "used" : ""].filter(Boolean).join(" ");
      const mark = make("mark", { className: classes, title: label, tabIndex: 0 }, letters.slice(link.start, link.end).join(""));
      mark.setAttribute("role", "button");
      mark.setAttribute("aria-label", `${mark.textContent}: ${label}`);
      mark.dataset.id = id;
      mark.addEventListener("click", () => this.on.choose(id));
      body.append(mark);
      at = link.end;
    }
    body.append(letters.slice(at).join(""));
    return body;
  }

  // characters of the report that are selected, [start, end); null without any
  selected() {
    const selection = document.getSelection();
    if (!this.text || !selection || selection.isCollapsed || !selection.rangeCount) return null;
    const range = selection.getRangeAt(0);
    if (!this.text.contains(range.startContainer) || !this.text.contains(range.endContainer)) return null;
    const before = document.createRange();
    before.selectNodeContents(this.text);
    before.setEnd(range.startContainer, range.startOffset);
    const words = range.toString();
    const first = Array.from(before.toString()).length + (words.length - words.trimStart().length);
    const count = Array.from(words.trim()).length;
    return count ? [first, first + count] : null;
  }

  // words of the text as [start, end), in characters
  words() {
    const letters = Array.from(this.view.report.text);
    const found = [];
    let start = -1;
    for (let at = 0; at <= letters.length; at += 1) {
      const inside = at < letters.length && /[\p{L}\p{M}\p{N}'’-]/u.test(letters[at]);
      if (inside && start < 0) start = at;
      if (!inside && start >= 0) {
        found.push([start, at]);
        start = -1;
      }
    }
    return found;
  }

  // by keys: the next (1) or previous (-1) word that is in no mention; after the last comes the first
  selectWord(by) {
    if (!this.text) return;
    const free = this.words().filter(([start, end]) => !this.view.links.some((link) => link.start < end && start < link.end));
    if (!free.length) return;
    const span = this.selected();
    const next = by > 0 ? free.find(([start]) => !span || start >= span[1]) : free.findLast(([, end]) => !span || end <= span[0]);
    this.selectSpan(...(next || free.at(by > 0 ? 0 : -1)));
  }

  // by keys: one word more (1) or less (-1) at the end of the selection; at least one word stays
  extendSelection(by) {
    const [start, end] = this.selected();
    const words = this.words();
    const next = by > 0 ? words.find((word) => word[1] > end) : words.findLast((word) => word[1] < end && word[1] > start);
    if (next) this.selectSpan(start, next[1]);
  }

  selectSpan(start, end) {
    const range = document.createRange();
    const walker = document.createTreeWalker(this.text, NodeFilter.SHOW_TEXT);
    let at = 0;
    while (walker.nextNode()) {
      const letters = Array.from(walker.currentNode.data);
      const units = (place) => letters.slice(0, place - at).join("").length;
      if (start >= at && start < at + letters.length) range.setStart(walker.currentNode, units(start));
      if (end > at && end <= at + letters.length) range.setEnd(walker.currentNode, units(end));
      at += letters.length;
    }
    document.getSelection().removeAllRanges();
    document.getSelection().addRange(range);
    this.keySpan = String(this.selected());
    const line = range.getBoundingClientRect(), frame = this.text.getBoundingClientRect();
    if (line.top < frame.top || line.bottom > frame.bottom) this.text.scrollTop += line.top - frame.top - frame.height / 2;
  }

  selectedByKeys() {
    const span = this.selected();
    return span !== null && String(span) === this.keySpan;
  }

  clearSelection() {
    this.keySpan = "";
    if (this.selected()) document.getSelection().removeAllRanges();
  }

  linkSelection() {
    const { run } = this.offerFor(this.selected());
    this.clearSelection();
    run();
  }

  // selected words become a mention; a known mention that they touch is taken instead
  offerSelection() {
    if (!this.extra) return;
    const span = this.selected();
    if (!span) return this.extra.replaceChildren();
    const { label, run } = this.offerFor(span);
    const offer = button(label, run);
    offer.addEventListener("pointerdown", (event) => event.preventDefault()); // the selection stays
    this.extra.replaceChildren(offer);
  }

  offerFor(span) {
    const overlap = (link) => Math.min(link.end, span[1]) - Math.max(link.start, span[0]);
    const touched = this.view.links.filter((link) => overlap(link) > 0).sort((a, b) => overlap(b) - overlap(a))[0];
    return touched ? { label: "Revise this link", run: () => this.on.choose(linkId(touched)) } : { label: "Link the selected words", run: () => this.on.add(...span) };
  }
}
