// The reader's desk: one study at a time, every change saved at once.
import { logOut, make, Refusal, request } from "/static/request.js";
import { Typing } from "/static/typing.js";
import { Viewer } from "/static/viewer.js";

const get = (id) => document.getElementById(id);
const IDLE_MS = 60000; // without a hand on mouse or keyboard no time is counted
const RETRY_MS = 2000;
const VERDICTS = { opacity: "lung opacity", abnormal: "abnormal, no opacity", normal: "normal", unusable: "cannot be judged" };

let me = null;
let lines = []; // the study list
let study = null; // facts of the open study
let own = null; // {annotations, rejected, verdict}: what the reader sees
let revision = 0;
let flags = { can_undo: false, can_redo: false };
let chosen = null; // id of a box, or origin of a suggestion
let dirty = false;
let saving = null;
let steps = Promise.resolve(); // undo and redo
let stepping = 0;
let fault = "";
let lastTouch = Date.now();
let counted = Date.now();
let activeMs = 0;

const viewer = new Viewer(get("pane"), {
  draw: (box) => {
    const id = `b${Date.now().toString(36)}${Math.random().toString(36).slice(2, 6)}`;
    own.annotations.push({ annotation_id: id, box_xyxy: box, code: "", coarse: "", assertion: "present", origin: "drawn", mention: null });
    chosen = id;
    changed();
  },
  change: (id, box) => {
    find(id).box_xyxy = box;
    changed();
  },
  choose: (id) => choose(id),
});

const typing = new Typing(get("typing"), {
  type: (value) => {
    Object.assign(find(chosen), value);
    changed();
  },
  done: () => choose(null),
  uncertain: () => toggleUncertain(),
  remove: () => remove(),
});

function find(id) {
  return own.annotations.find((item) => item.annotation_id === id);
}

function openSuggestions() {
  const taken = new Set([...own.rejected, ...own.annotations.map((item) => item.origin)]);
  return study.suggestions.filter((item) => !taken.has(item.origin));
}

function isOpacity(code) {
  return study.opacity.includes(code.split("/")[0]);
}

function implied() {
  if (own.annotations.some((item) => isOpacity(item.code))) return "opacity";
  return own.annotations.length ? "abnormal" : "";
}

// saving ------------------------------------------------------------------------------------------

function changed(verdict = "") {
  if (stepping) return steps;
  own.verdict = verdict; // a change reopens a finished study
  dirty = true;
  render();
  return save();
}

function tick() {
  const now = Date.now();
  if (!document.hidden && now - lastTouch < IDLE_MS) activeMs += now - counted;
  counted = now;
}

function takeSeconds() {
  tick();
  const seconds = Math.min(activeMs / 1000, 300);
  activeMs = 0;
  return seconds;
}

function clean(item) {
  const { annotation_id, box_xyxy, code, coarse, assertion, origin, mention } = item;
  return { annotation_id, box_xyxy, code, coarse, assertion, origin, mention };
}

function save() {
  if (!saving) saving = saveAll().finally(() => { saving = null; showState(); });
  return saving;
}

async function saveAll() {
  while (dirty) {
    dirty = false;
    const seconds = takeSeconds();
    const body = { base_revision: revision, annotations: own.annotations.map(clean), rejected: own.rejected, verdict: own.verdict, step_s: seconds };
    try {
      const state = await request("PUT", `/api/studies/${study.key}/reading`, body);
      revision = state.revision;
      flags = state;
      const back = fault;
      fault = "";
      if (back) render(); // the choices of the next step could not be asked for meanwhile
    } catch (error) {
      activeMs += seconds * 1000;
      if (error instanceof Refusal && error.status < 500) {
        await load(study.key); // what the server holds is the truth
        fault = error.message;
      } else {
        dirty = true;
        fault = "Not saved: the application does not answer. Trying again.";
        showState();
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
    showState();
  }
  updateLine();
}

// one after the other; a change that would fall between is dropped, since its ground is moving
function step(name) {
  stepping += 1;
  steps = steps.then(async () => {
    try {
      await save();
      apply(await request("POST", `/api/studies/${study.key}/${name}`));
      fault = "";
    } catch (error) {
      fault = error instanceof Refusal ? error.message : "Not undone: the application does not answer.";
    }
    stepping -= 1;
    if (chosen && !find(chosen)) chosen = null;
    render();
  });
  return steps;
}

// studies -----------------------------------------------------------------------------------------

function apply(state) {
  own = { annotations: state.annotations, rejected: state.rejected, verdict: state.verdict };
  revision = state.revision;
  flags = state;
}

async function load(key) {
  const found = await request("GET", `/api/studies/${key}`);
  const other = !study || study.key !== found.key;
  study = found;
  apply(found);
  chosen = null;
  if (other) {
    takeSeconds();
    history.replaceState(null, "", `#${key}`);
    viewer.show(`/api/studies/${key}/image`, study.width, study.height);
    const next = lines[lines.findIndex((line) => line.key === key) + 1];
    if (next) new Image().src = `/api/studies/${next.key}/image`;
  }
  fault = "";
  render();
}

async function open(key) {
  if (study) {
    await save();
    const seconds = takeSeconds();
    if (seconds > 1) await request("POST", `/api/studies/${study.key}/time`, { step_s: seconds }).catch(() => {});
  }
  await load(key);
}

function go(by) {
  const at = lines.findIndex((line) => line.key === study.key) + by;
  if (lines[at]) open(lines[at].key);
}

function nextOpen() {
  const at = lines.findIndex((line) => line.key === study.key);
  const after = [...lines.slice(at + 1), ...lines.slice(0, at)].find((line) => !line.verdict);
  if (after) open(after.key);
  else get("message").textContent = "All studies on your list are finished. Thank you.";
  get("message").hidden = Boolean(after);
}

async function finish(verdict) {
  chosen = null;
  await changed(verdict);
  if (!fault) nextOpen();
}

// choosing ----------------------------------------------------------------------------------------

function choose(id) {
  chosen = id;
  render();
}

// the first box that has no finding yet
function chooseOpen() {
  const item = own.annotations.find((one) => !one.code);
  if (item) choose(item.annotation_id);
}

function cycle(by) {
  const ids = [...own.annotations.map((item) => item.annotation_id), ...openSuggestions().map((item) => item.origin)];
  if (ids.length) choose(ids[(ids.indexOf(chosen) + by + ids.length) % ids.length]);
}

function remove() {
  if (!find(chosen)) return;
  own.annotations = own.annotations.filter((item) => item.annotation_id !== chosen);
  chosen = null;
  changed();
}

function toggleUncertain() {
  const item = find(chosen);
  if (!item) return;
  item.assertion = item.assertion === "present" ? "uncertain" : "present";
  changed();
}

function accept(suggestion) {
  const id = `s${Date.now().toString(36)}${Math.random().toString(36).slice(2, 6)}`;
  own.annotations.push({ annotation_id: id, box_xyxy: suggestion.box_xyxy, code: suggestion.code, coarse: suggestion.code ? "" : study.opacity_group, assertion: suggestion.assertion || "present", origin: suggestion.origin, mention: null });
  chosen = id;
  changed();
}

function reject(suggestion) {
  own.rejected.push(suggestion.origin);
  chosen = null;
  changed();
}

function chosenSuggestion() {
  return openSuggestions().find((item) => item.origin === chosen) || (find(chosen) ? null : openSuggestions()[0]);
}

function nudge(x, y) {
  const item = find(chosen);
  if (!item) return viewer.panBy(-40 * Math.sign(x), -40 * Math.sign(y));
  const [x1, y1, x2, y2] = item.box_xyxy;
  const dx = Math.min(study.width - x2, Math.max(-x1, x)), dy = Math.min(study.height - y2, Math.max(-y1, y));
  item.box_xyxy = [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
  changed();
}

// drawing the page --------------------------------------------------------------------------------

function label(item) {
  if (!item.code) return item.coarse ? `${item.coarse} ?` : "?";
  return (item.code === "NIL" ? "NIL" : item.code.split("/")[0]) + (item.assertion === "uncertain" ? " ?" : "");
}

function source(origin) {
  if (origin.startsWith("reader:")) return origin.split(":")[1];
  return origin.startsWith("model:") ? "model" : "";
}

function render() {
  viewer.items = [
    ...openSuggestions().map((item) => ({ id: item.origin, box: item.box_xyxy, kind: "suggested", chosen: item.origin === chosen, label: item.score === null ? `${source(item.origin)}: ${item.code}` : `model ${Math.round(item.score * 100)} %` })),
    ...own.annotations.map((item) => ({ id: item.annotation_id, box: item.box_xyxy, kind: "own", chosen: item.annotation_id === chosen, label: label(item) })),
  ];
  viewer.draw();
  renderFindings();
  renderReport();
  renderFinish();
  const item = find(chosen);
  if (item) typing.show(study, item);
  else typing.hide();
  get("title").textContent = `Study ${study.key}${study.view ? `, ${study.view}` : ""}`;
  get("place").textContent = `${lines.findIndex((line) => line.key === study.key) + 1} of ${lines.length}`;
  showState();
  updateLine();
}

function showState() {
  const state = get("state");
  state.textContent = fault || (dirty || saving ? "saving" : "saved");
  state.classList.toggle("fault", Boolean(fault));
  get("undo").disabled = !flags.can_undo && !dirty;
  get("redo").disabled = !flags.can_redo;
}

function button(text, run, title = "", className = "") {
  const found = make("button", { type: "button", title, className }, text);
  found.addEventListener("click", (event) => {
    event.stopPropagation();
    run();
  });
  return found;
}

function renderFindings() {
  const rows = own.annotations.map((item, i) => {
    const row = make("li", { className: item.annotation_id === chosen ? "chosen" : "", tabIndex: 0 }, make("b", {}, String(i + 1)),
      make("span", { className: item.code ? "label" : "label open" }, item.code ? item.code.replaceAll("/", " / ") : "finding not chosen yet"),
      item.assertion === "uncertain" ? make("small", {}, "uncertain") : null, source(item.origin) ? make("small", {}, source(item.origin)) : null);
    row.addEventListener("click", () => choose(item.annotation_id));
    return row;
  });
  const offered = openSuggestions().map((item) => {
    const row = make("li", { className: item.origin === chosen ? "suggestion chosen" : "suggestion" },
      make("span", { className: "label" }, item.score === null ? `${source(item.origin)}: ${item.code}${item.assertion === "uncertain" ? " ?" : ""}` : `Model, ${Math.round(item.score * 100)} %`),
      button("Accept", () => accept(item), "Accept (A)"), button("Reject", () => reject(item), "Reject (R)"));
    row.addEventListener("click", () => choose(item.origin));
    return row;
  });
  get("findings").replaceChildren(make("h2", {}, own.annotations.length ? `Boxes (${own.annotations.length})` : "No box yet"),
    make("ul", {}, ...rows, ...offered),
    ...(rows.length || offered.length ? [] : [make("p", { className: "hint" }, "Drag over the image to draw one.")]));
}

function renderReport() {
  const place = get("report");
  const report = study.report;
  if (!report) return place.replaceChildren();
  const parts = [make("h2", {}, "Report")];
  if (report.reason) parts.push(make("p", { className: "hint" }, `The report cannot be used: ${report.reason}.`));
  const body = make("p", { className: "text" });
  const letters = Array.from(report.text); // offsets count characters, not UTF-16 units
  let at = 0;
  const item = find(chosen);
  for (const mention of [...report.mentions].sort((a, b) => a.start - b.start)) {
    if (mention.start < at) continue;
    body.append(letters.slice(at, mention.start).join(""));
    const used = item && item.mention && item.mention[0] === mention.start;
    body.append(make("mark", { className: `${mention.assertion}${used ? " used" : ""}`, title: mention.code }, letters.slice(mention.start, mention.end).join("")));
    at = mention.end;
  }
  body.append(letters.slice(at).join(""));
  place.replaceChildren(...parts, body);
}

function renderFinish() {
  const verdict = implied();
  const untyped = own.annotations.filter((item) => !item.code).length;
  const place = get("finish");
  const waiting = openSuggestions().length;
  const note = waiting ? make("p", { className: "hint" }, `${waiting} suggestion${waiting > 1 ? "s" : ""} neither accepted nor rejected`) : null;
  if (own.verdict) {
    place.replaceChildren(make("p", { className: "finished" }, `Finished: ${VERDICTS[own.verdict]}`),
      make("div", { className: "row" }, button("Reopen", () => changed()), button("Next study", () => nextOpen(), "", "primary")));
  } else if (verdict) {
    const done = untyped
      ? button(`${untyped} box${untyped > 1 ? "es" : ""} without a finding`, chooseOpen, "Go to it (Enter)", "wide")
      : button(`Finish: ${VERDICTS[verdict]}`, () => finish(verdict), "Finish (Enter)", "primary wide");
    place.replaceChildren(...(note ? [note] : []), done);
  } else {
    place.replaceChildren(...(note ? [note] : []), make("p", { className: "hint" }, "Nothing to box? Finish as"), make("div", { className: "row" },
      button("Normal", () => finish("normal"), "", "primary"), button("Abnormal, no box", () => finish("abnormal")), button("Cannot be judged", () => finish("unusable"))));
  }
}

function updateLine() {
  const line = lines.find((item) => item.key === study.key);
  if (line) Object.assign(line, { boxes: own.annotations.length, verdict: own.verdict, started: own.annotations.length > 0 });
  renderList();
}

function renderList() {
  const done = lines.filter((line) => line.verdict).length;
  const rows = lines.map((line) => {
    const mark = line.verdict ? "✓" : line.started ? "◐" : "○";
    const row = make("button", { type: "button", className: `study${study && line.key === study.key ? " current" : ""}${line.verdict ? " done" : ""}` },
      make("span", { className: "mark" }, mark), `Study ${line.key}`, make("small", {}, line.boxes ? `${line.boxes} box${line.boxes > 1 ? "es" : ""}` : ""));
    row.addEventListener("click", () => open(line.key));
    return row;
  });
  const scroll = get("list").scrollTop;
  const progress = make("progress", { max: lines.length || 1, value: done });
  get("list").replaceChildren(make("p", { className: "progress" }, `${done} of ${lines.length} finished`, progress), ...rows);
  get("list").scrollTop = scroll;
}

// keyboard and buttons ----------------------------------------------------------------------------

function toggle(id, name, off) {
  const on = document.body.classList.toggle(name);
  get(id).setAttribute("aria-pressed", String(off ? !on : on));
}

const ACTIONS = {
  invert: () => toggle("invert", "inverted"),
  "window-tool": () => {
    viewer.windowing = !viewer.windowing;
    get("window-tool").setAttribute("aria-pressed", String(viewer.windowing));
    get("pane").classList.toggle("windowing", viewer.windowing);
  },
  boxes: () => toggle("boxes", "no-boxes", true),
  fit: () => {
    viewer.reset();
    if (document.body.classList.contains("inverted")) toggle("invert", "inverted");
    viewer.draw();
  },
  keys: () => {
    get("help").hidden = !get("help").hidden;
    get("keys").setAttribute("aria-expanded", String(!get("help").hidden));
  },
  undo: () => { if (study) step("undo"); },
  redo: () => { if (study) step("redo"); },
  logout: logOut,
  previous: () => { if (study) go(-1); },
  next: () => { if (study) go(1); },
  "list-toggle": () => toggle("list-toggle", "no-list", true),
};
for (const [id, action] of Object.entries(ACTIONS)) {
  get(id).addEventListener("click", () => {
    action();
    get(id).blur(); // so that Enter and digits go to the study again
  });
}

const KEYS = {
  j: () => go(1), k: () => go(-1), i: ACTIONS.invert, h: ACTIONS.boxes, f: ACTIONS.fit, l: ACTIONS["list-toggle"], "?": ACTIONS.keys,
  w: ACTIONS["window-tool"], u: toggleUncertain, Delete: remove,
  a: () => { const item = chosenSuggestion(); if (item) accept(item); },
  r: () => { const item = chosenSuggestion(); if (item) reject(item); },
  "+": () => viewer.zoomAt(1.25), "=": () => viewer.zoomAt(1.25), "-": () => viewer.zoomAt(0.8),
  "[": () => viewer.windowBy(0.9, 0), "]": () => viewer.windowBy(1 / 0.9, 0), ",": () => viewer.windowBy(1, 0.03), ".": () => viewer.windowBy(1, -0.03),
  "/": () => { const field = get("search"); if (field) field.focus(); },
  Backspace: () => { if (find(chosen)) typing.back(); },
  Escape: () => { get("help").hidden = true; choose(null); },
  Enter: () => {
    if (find(chosen)) { if (find(chosen).code) choose(null); } else if (!own.verdict && own.annotations.some((item) => !item.code)) chooseOpen();
    else if (!own.verdict && implied()) finish(implied());
    else if (own.verdict) nextOpen();
  },
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  lastTouch = Date.now();
  if (!study || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.altKey) return;
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  let action;
  if (event.ctrlKey || event.metaKey) {
    if (name === "z") action = () => step(event.shiftKey ? "redo" : "undo");
    else if (name === "y") action = () => step("redo");
  } else if (ARROWS[name]) action = () => nudge(...ARROWS[name].map((side) => side * (event.shiftKey ? 10 : 1)));
  else if (event.shiftKey && /^Digit[1-6]$/.test(event.code) && find(chosen)) action = () => typing.reportDigit(Number(event.code.slice(5)));
  else if (/^[0-9]$/.test(name) && find(chosen)) action = () => typing.digit(Number(name));
  else if (name === "Tab" && document.activeElement === get("pane")) action = () => cycle(event.shiftKey ? -1 : 1);
  else if ((name === "Enter" || name === " ") && event.target.tagName === "BUTTON") return;
  else action = KEYS[name];
  if (!action) return;
  event.preventDefault();
  action();
});

for (const name of ["pointerdown", "pointermove", "wheel"]) document.addEventListener(name, () => { lastTouch = Date.now(); }, { passive: true });
setInterval(tick, 1000);
window.addEventListener("beforeunload", (event) => { if (dirty || saving) event.preventDefault(); });

async function start() {
  me = await request("GET", "/api/me");
  get("who").textContent = me.role === "manager" ? "Adjudication" : me.name;
  get("manage").hidden = me.role !== "manager";
  lines = await request("GET", "/api/studies");
  renderList();
  const wanted = Number(location.hash.slice(1));
  const first = lines.find((line) => line.key === wanted) || lines.find((line) => !line.verdict) || lines[0];
  if (first) await load(first.key);
  else {
    get("message").textContent = "There is no study on your list yet. The manager assigns them.";
    get("message").hidden = false;
  }
  document.body.dataset.ready = "1";
  get("pane").focus({ preventScroll: true });
}

start();
