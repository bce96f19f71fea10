// Multi-step typing: coarse type, re-filtered candidates of the report, finer type; NIL, the whole
// tree and prefix search at every step.
import { make, request } from "/static/request.js";

// what the report says of a finding, beyond that it is there
function said(offer) {
  const more = [offer.assertion === "present" ? "" : offer.assertion, offer.other_side ? "other side" : ""].filter(Boolean);
  return more.join(", ") || "report";
}

export class Typing {
  // on: {type({code, coarse, mention}), done(), uncertain(), remove()}
  constructor(section, on) {
    this.section = section;
    this.on = on;
    this.item = null;
    this.ticket = 0;
  }

  hide() {
    this.item = null;
    this.ticket += 1;
    this.section.hidden = true;
    this.choices = [];
  }

  // the state machine: nothing chosen -> coarse -> candidates -> finer
  async show(study, item, step) {
    this.study = study;
    this.item = item;
    this.step = step || (item.code && item.code !== "NIL" ? "finer" : item.coarse ? "candidates" : "coarse");
    const ticket = ++this.ticket;
    const choices = await this.load(item).catch(() => null);
    if (!choices) return; // the desk says that nobody answers, and asks again
    if (ticket !== this.ticket) return; // another box was chosen meanwhile
    this.choices = choices;
    this.render();
  }

  async load(item) {
    const [x1, , x2] = item.box_xyxy;
    const side = `x1=${x1}&x2=${x2}`;
    const key = this.study.key;
    if (this.step === "coarse") {
      const { offers } = await request("GET", `/api/studies/${key}/offers?${side}`);
      this.reported = offers.slice(0, 6);
      return this.study.coarse.map(([name, n]) => ({ code: name, label: name, note: n ? String(n) : "", report: n > 0, hint: n ? `${n} in the report` : "", coarse: true }));
    }
    if (this.step === "candidates") {
      const { offers } = await request("GET", `/api/studies/${key}/offers?coarse=${encodeURIComponent(item.coarse)}&${side}`);
      return offers.map((offer) => ({ code: offer.code, label: offer.code.replaceAll("/", " / "), note: offer.source === "report" ? said(offer) : "", mention: offer.span, report: offer.source === "report" }));
    }
    const node = this.step === "tree" ? this.node || "" : item.code;
    const { path, nodes } = await request("GET", `/api/types/children?node=${encodeURIComponent(node)}`);
    this.path = path;
    const below = (code) => (code.startsWith(`${node}/`) ? code.slice(node.length + 1) : code).replaceAll("/", " / ");
    return nodes.map(([code, n]) => ({ code, label: below(code), note: n ? `${n} finer` : "", children: n }));
  }

  pick(choice) {
    if (!choice) return;
    const item = this.item;
    if (choice.coarse) return this.on.type({ coarse: choice.code, code: "", mention: null });
    if (this.step === "tree" && choice.children && !this.path.length) {
      this.node = choice.code;
      return this.show(this.study, item, "tree");
    }
    this.node = "";
    this.on.type({ code: choice.code, coarse: item.coarse, mention: choice.mention || (choice.code.startsWith(`${item.code}/`) ? item.mention : null) });
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
    this.on.type({ code: offer.code, coarse: offer.coarse, mention: offer.span });
  }

  nil() {
    this.on.type({ code: "NIL", coarse: this.item.coarse, mention: null });
  }

  back() {
    if (this.step === "finer" && this.path && this.path.length > 2) {
      return this.on.type({ code: this.path[this.path.length - 2], coarse: this.item.coarse, mention: this.item.mention });
    }
    if (this.step === "finer") return this.on.type({ code: "", coarse: this.item.coarse, mention: null });
    if (this.step === "tree" && this.node) {
      this.node = "";
      return this.show(this.study, this.item, "tree");
    }
    if (this.step === "tree") return this.show(this.study, this.item);
    return this.on.type({ code: "", coarse: "", mention: null });
  }

  button(choice, number) {
    const found = make("button", { className: `choice${choice.report ? " reported" : ""}`, type: "button", title: choice.hint || "" },
      make("kbd", {}, number <= 9 ? String(number) : ""), make("span", { className: "label" }, choice.label),
      choice.note ? make("small", {}, choice.note) : null);
    found.dataset.code = choice.code;
    found.addEventListener("click", () => this.pick(choice));
    for (const name of ["pointerenter", "focus"]) found.addEventListener(name, () => this.describe(choice.code));
    return found;
  }

  render() {
    const item = this.item;
    const titles = { coarse: "1  What kind of finding?", candidates: `2  Which finding? (${item.coarse})`, finer: "3  More exactly? (or done)", tree: this.node || "All findings" };
    const head = make("div", { className: "crumbs" }, make("b", {}, titles[this.step]));
    if (item.code) head.append(make("span", { className: "now" }, item.code === "NIL" ? "NIL: finding without a concept" : item.code.replaceAll("/", " / ")));
    const list = make("div", { className: this.step === "coarse" ? "choices pair" : "choices" }, ...this.choices.map((choice, i) => this.button(choice, i + 1)));
    if (!this.choices.length) list.append(make("p", { className: "hint" }, "Nothing finer: this finding is complete."));
    const parts = [head];
    if (this.step === "coarse" && this.reported.length) {
      parts.push(make("p", { className: "hint" }, "The report says:"), make("div", { className: "choices chips" }, ...this.reported.map((offer, i) => {
        const more = said(offer);
        const chip = make("button", { className: "chip", type: "button" }, make("kbd", {}, `\u21e7${i + 1}`), make("span", { className: "label" }, offer.code.replaceAll("/", " / ")),
          more === "report" ? null : make("small", {}, more));
        chip.dataset.code = offer.code;
        chip.addEventListener("click", () => this.take(offer));
        for (const name of ["pointerenter", "focus"]) chip.addEventListener(name, () => this.describe(offer.code));
        return chip;
      })));
    }
    parts.push(list, this.searchRow(), this.actions(), make("p", { id: "description", className: "description" }));
    const before = this.section.querySelector("#search");
    const typed = before && document.activeElement === before ? before.value : null;
    this.section.replaceChildren(...parts);
    this.section.hidden = false;
    if (typed !== null) { // who was typing already goes on
      const field = this.section.querySelector("#search");
      field.value = typed;
      field.focus();
      field.dispatchEvent(new Event("input"));
    }
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
      hits.replaceChildren(...found.map((code) => this.button({ code, label: code.replaceAll("/", " / "), note: "" }, 99)));
      if (field.value.trim() && !found.length) hits.append(make("p", { className: "hint" }, "No finding begins like that."));
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

  actions() {
    const action = (label, title, run, pressed) => {
      const found = make("button", { type: "button", title }, label);
      if (pressed !== undefined) found.setAttribute("aria-pressed", String(pressed));
      found.addEventListener("click", run);
      return found;
    };
    const back = this.step !== "coarse" || this.item.coarse;
    return make("div", { className: "row" },
      back ? action("← Back", "One step back (Backspace)", () => this.back()) : null,
      action("NIL", "No concept fits (0)", () => this.nil()),
      this.step === "tree" ? null : action("Whole tree", "Browse everything", () => { this.node = ""; this.show(this.study, this.item, "tree"); }),
      action("Uncertain", "Present or uncertain (U)", () => this.on.uncertain(), this.item.assertion === "uncertain"),
      action("Delete", "Delete the box (Del)", () => this.on.remove()),
      this.item.code ? action("Done", "Finish this box (Enter)", () => this.on.done()) : null);
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
