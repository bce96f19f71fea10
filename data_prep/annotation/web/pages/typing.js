// Multi-step typing: coarse type, re-filtered candidates of the report, finer type; NIL, the whole
// tree and prefix search at every step. For a box, and for the link of a mention of the report.
import { button, make, request } from "/static/request.js";
import { STATES } from "/static/report.js";

const spaced = (code) => code.replaceAll("/", " / ");

// assertion and side of a finding in the report, where not present on the same side
function qualifier(offer) {
  const more = [offer.assertion === "present" ? "" : offer.assertion, offer.other_side ? "other side" : ""].filter(Boolean);
  return more.join(", ") || "report";
}

export class Typing {
  // on: {type({code, coarse, mention}), done(), uncertain(), remove(), link(changes), accept(),
  // reset(), linked(), version()}; linked() resolves when the server knows the reader's links,
  // whose version() changes with them
  constructor(section, on) {
    this.section = section;
    this.on = on;
    this.ticket = 0;
    this.hide();
  }

  hide() {
    this.item = null;
    this.shown = "";
    this.ticket += 1;
    this.section.hidden = true;
    this.choices = [];
  }

  // The state machine: nothing chosen -> coarse -> candidates -> finer. item: a box, or
  // {link, words, code, coarse} for a mention.
  async show(study, item, step) {
    const shown = JSON.stringify([study.key, item, this.on.version()]);
    if (!step && shown === this.shown) return;
    this.shown = shown;
    this.study = study;
    this.item = item;
    this.step = step || (item.code && item.code !== "NIL" ? "finer" : item.coarse ? "candidates" : "coarse");
    const ticket = ++this.ticket;
    const choices = await this.load(item).catch(() => null);
    if (ticket !== this.ticket) return; // something else was chosen meanwhile
    if (!choices) this.shown = ""; // annotate.js reports that the server does not answer, and tries again
    else {
      this.choices = choices;
      this.render();
    }
  }

  offers(query) {
    const { item, study } = this;
    const path = item.link ? `mention?start=${item.link.start}&end=${item.link.end}` : `offers?x1=${item.box_xyxy[0]}&x2=${item.box_xyxy[2]}`;
    return request("GET", `/api/studies/${study.key}/${path}${query}`);
  }

  async load(item) {
    if (!item.link) await this.on.linked();
    if (this.step === "coarse") {
      const { offers, coarse } = await this.offers("");
      this.reported = offers.slice(0, 6);
      const counts = new Map(coarse || offers.map((offer) => [offer.coarse, 1]));
      return this.study.coarse.map(([name]) => {
        const n = counts.get(name) || 0;
        return { code: name, label: name, note: n && coarse ? String(n) : "", report: n > 0, hint: n && coarse ? `${n} in the report` : "", coarse: true };
      });
    }
    if (this.step === "candidates") {
      const { offers } = await this.offers(`&coarse=${encodeURIComponent(item.coarse)}`);
      return offers.map((offer) => ({ code: offer.code, label: spaced(offer.code), note: offer.source === "report" ? qualifier(offer) : offer.source === "mention" ? "these words" : "", mention: offer.span, report: offer.source !== "frequent" }));
    }
    const node = this.step === "tree" ? this.node || "" : item.code;
    const { path, nodes } = await request("GET", `/api/types/children?node=${encodeURIComponent(node)}`);
    this.path = path;
    const below = (code) => spaced(code.startsWith(`${node}/`) ? code.slice(node.length + 1) : code);
    return nodes.map(([code, n]) => ({ code, label: below(code), note: n ? `${n} finer` : "", children: n }));
  }

  pick(choice) {
    if (!choice) return;
    const { item } = this;
    if (choice.coarse) return this.pickCoarse(choice.code);
    if (this.step === "tree" && choice.children && !this.path.length) {
      this.node = choice.code;
      return this.show(this.study, item, "tree");
    }
    this.node = "";
    const finer = choice.code.startsWith(`${item.code}/`);
    this.type(choice.code, item.coarse, choice.mention || (finer ? item.mention : null));
  }

  // a link always has a code: its coarse type is only a step on this page
  pickCoarse(coarse) {
    if (this.item.link) this.show(this.study, { ...this.item, coarse }, "candidates");
    else this.on.type({ coarse, code: "", mention: null });
  }

  type(code, coarse, mention) {
    if (this.item.link) this.on.link({ code });
    else this.on.type({ code, coarse, mention });
  }

  digit(n) {
    if (n === 0) this.nil();
    else this.pick(this.choices[n - 1]);
  }

  // Shift and a digit: what the report says, all three steps at once
  reportDigit(n) {
    const offer = this.step === "coarse" && this.reported[n - 1];
    if (offer) this.take(offer);
  }

  take(offer) {
    this.type(offer.code, offer.coarse, offer.span);
  }

  nil() {
    this.type("NIL", this.item.coarse, null);
  }

  back() {
    const { item, study } = this;
    this.shown = "";
    if (this.step === "finer" && this.path && this.path.length > 2) return this.type(this.path[this.path.length - 2], item.coarse, item.mention);
    if (this.step === "finer" && item.link) return this.show(study, { ...item, coarse: this.path[0] }, "candidates");
    if (this.step === "finer") return this.on.type({ code: "", coarse: item.coarse, mention: null });
    if (this.step === "tree" && this.node) {
      this.node = "";
      return this.show(study, item, "tree");
    }
    if (this.step === "tree") return this.show(study, item, item.link ? "coarse" : undefined);
    if (item.link) return this.show(study, { ...item, coarse: "" }, "coarse");
    return this.on.type({ code: "", coarse: "", mention: null });
  }

  choice(choice, number) {
    const found = make("button", { className: `choice${choice.report ? " reported" : ""}`, type: "button", title: choice.hint || "" },
      make("kbd", {}, number <= 9 ? String(number) : ""), make("span", { className: "label" }, choice.label),
      choice.note ? make("small", {}, choice.note) : null);
    found.dataset.code = choice.code;
    found.addEventListener("click", () => this.pick(choice));
    for (const name of ["pointerenter", "focus"]) found.addEventListener(name, () => this.describe(choice.code));
    return found;
  }

  render() {
    const { item } = this;
    const titles = { coarse: "1  What kind of finding?", candidates: `2  Which finding? (${item.coarse})`, finer: "3  More exactly? (or done)", tree: this.node || "All findings" };
    const head = make("div", { className: "crumbs" }, item.link ? make("b", {}, `“${item.words}” in the report means`) : make("b", {}, titles[this.step]));
    if (item.code) head.append(make("span", { className: "now" }, item.code === "NIL" ? (item.link ? "no finding" : "NIL: finding without a concept") : spaced(item.code)));
    const list = make("div", { className: this.step === "coarse" ? "choices pair" : "choices" }, ...this.choices.map((choice, i) => this.choice(choice, i + 1)));
    if (!this.choices.length) list.append(make("p", { className: "hint" }, "No finer finding: this one is complete."));
    const parts = item.link ? [head, this.linkRow(), make("p", { className: "hint" }, titles[this.step])] : [head];
    if (this.step === "coarse" && this.reported.length) parts.push(make("p", { className: "hint" }, item.link ? "These words may mean:" : "The report says:"), this.chips());
    parts.push(list, this.searchRow(), item.link ? this.linkActions() : this.boxActions(), make("p", { id: "description", className: "description" }));
    const before = this.section.querySelector("#search");
    const typed = before && document.activeElement === before ? before.value : null;
    this.section.replaceChildren(...parts);
    this.section.hidden = false;
    if (typed !== null) { // keep the text and focus of a search in progress
      const field = this.section.querySelector("#search");
      field.value = typed;
      field.focus();
      field.dispatchEvent(new Event("input"));
    }
  }

  chips() {
    return make("div", { className: "choices chips" }, ...this.reported.map((offer, i) => {
      const more = offer.source === "mention" ? "report" : qualifier(offer);
      const chip = make("button", { className: "chip", type: "button" }, make("kbd", {}, `\u21e7${i + 1}`), make("span", { className: "label" }, spaced(offer.code)),
        more === "report" ? null : make("small", {}, more));
      chip.dataset.code = offer.code;
      chip.addEventListener("click", () => this.take(offer));
      for (const name of ["pointerenter", "focus"]) chip.addEventListener(name, () => this.describe(offer.code));
      return chip;
    }));
  }

  searchRow() {
    const field = make("input", { id: "search", type: "search", placeholder: "Search all findings  ( / )", autocomplete: "off", spellcheck: false, maxLength: 100 });
    field.setAttribute("aria-label", "Search all findings");
    const hits = make("div", { className: "choices", id: "hits" });
    let asked = 0;
    field.addEventListener("input", async () => {
      const mine = ++asked;
      const found = field.value.trim() ? await request("GET", `/api/types/search?prefix=${encodeURIComponent(field.value)}`) : [];
      if (mine !== asked) return;
      hits.replaceChildren(...found.map((code) => this.choice({ code, label: spaced(code), note: "" }, 99)));
      if (field.value.trim() && !found.length) hits.append(make("p", { className: "hint" }, "No finding begins with this text."));
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && hits.querySelector("button")) {
        field.blur(); // the search is over
        hits.querySelector("button").click();
      }
      if (event.key === "Escape") field.blur();
      event.stopPropagation();
    });
    return make("div", {}, field, hits);
  }

  action(label, title, run, pressed) {
    const found = button(label, run, title);
    if (pressed !== undefined) found.setAttribute("aria-pressed", String(pressed));
    return found;
  }

  // the assertion of the mention as toggle buttons
  linkRow() {
    const { link } = this.item;
    const keys = { present: "Y", uncertain: "U", absent: "X", prior: "E" };
    return make("div", { className: "row states" }, ...Object.entries(STATES).map(([state, label]) => this.action(label, `The report says so (${keys[state]})`, () => this.on.link({ assertion: state }), link.code !== "NIL" && link.assertion === state)));
  }

  linkActions() {
    const { link } = this.item;
    return make("div", { className: "row" },
      link.decided ? null : button("Accept", () => this.on.accept(), "The link is right (A)", "primary"),
      this.step === "coarse" ? null : this.action("← Back", "One step back (Backspace)", () => this.back()),
      this.action("No finding", "The words name no finding (0)", () => this.nil(), link.code === "NIL"),
      this.tree(),
      link.decided ? this.action("As before", "Undo your decision", () => this.on.reset()) : null,
      this.action("Done", "Leave the report (Enter)", () => this.on.done()));
  }

  boxActions() {
    const back = this.step !== "coarse" || this.item.coarse;
    return make("div", { className: "row" },
      back ? this.action("← Back", "One step back (Backspace)", () => this.back()) : null,
      this.action("NIL", "No concept fits (0)", () => this.nil()),
      this.tree(),
      this.action("Uncertain", "Present or uncertain (U)", () => this.on.uncertain(), this.item.assertion === "uncertain"),
      this.action("Delete", "Delete the box (Del)", () => this.on.remove()),
      this.item.code ? this.action("Done", "Finish this box (Enter)", () => this.on.done()) : null);
  }

  tree() {
    return this.step === "tree" ? null : this.action("Whole tree", "Browse all findings", () => { this.node = ""; this.show(this.study, this.item, "tree"); });
  }

  async describe(code) {
    const place = this.section.querySelector("#description");
    const about = await request("GET", `/api/types/description?node=${encodeURIComponent(code)}`).catch(() => null);
    if (!about || !place) return;
    const parts = [about.path.join(" › ")];
    if (about.also_called.length) parts.push(`also: ${about.also_called.slice(0, 6).join(", ")}`);
    if (about.often_with.length) parts.push(`often with: ${about.often_with.slice(0, 3).join(", ")}`);
    place.textContent = parts.join(" · ");
  }
}
