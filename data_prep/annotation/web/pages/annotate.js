// The reader's desk: one study at a time; every change is queued and shown as unsaved until the
// server has confirmed it.
import { logOut, make, Refusal, request } from "/static/request.js";
import { ChangeQueue } from "/static/saving.js";
import { Typing } from "/static/typing.js";
import { Viewer } from "/static/viewer.js";

const get = (id) => document.getElementById(id);
const now = () => performance.now(); // the clock of the day may be set back
const IDLE_MS = 60000; // without a hand on mouse or keyboard no time is counted
const VERDICTS = { opacity: "lung opacity", abnormal: "abnormal, no opacity", normal: "normal", unusable: "cannot be judged" };

let me = null;
let lines = []; // the study list
let rows = new Map(); // study key -> its row in the list
let currentRow = null;
let buildingList = false;
let study = null; // facts of the open study
let own = null; // {annotations, rejected, verdict, comment}: what the reader sees
let flags = { can_undo: false, can_redo: false };
let chosen = null; // id of a box, or origin of a suggestion
let opening = 0; // the latest study that was asked for
let message = ""; // about the study list
let lost = []; // {key, message, reading}: what the server refused
let lastTouch = now();
let counted = now();
let activeMs = 0;
const ahead = new Map(); // study key -> promise of its facts, asked for before it is opened

const queue = new ChangeQueue({
  state: () => { if (study) showState(); },
  confirmed: (change, state) => confirmed(change, state),
  answers: () => { if (study) render(); }, // the choices of a box could not be asked for meanwhile
  refused: (changes, text) => {
    const saves = changes.filter((change) => change.kind === "save");
    lost.push({ key: changes[0].key, message: text, reading: saves.length ? saves[saves.length - 1].reading : null });
    showState();
  },
});

const viewer = new Viewer(get("pane"), {
  draw: (box) => {
    const item = { annotation_id: newId("b"), box_xyxy: box, code: "", coarse: "", assertion: "present", origin: "drawn", mention: null };
    chosen = item.annotation_id;
    edit((state) => state.annotations.push({ ...item }));
  },
  change: (id, box) => {
    edit((state) => { const item = find(id, state); if (item) item.box_xyxy = box; });
  },
  choose: (id) => choose(id),
});

const typing = new Typing(get("typing"), {
  type: (value) => {
    const id = chosen;
    edit((state) => Object.assign(find(id, state) || {}, value));
  },
  done: () => choose(null),
  uncertain: () => toggleUncertain(),
  remove: () => remove(),
});

function find(id, state = own) {
  return state.annotations.find((item) => item.annotation_id === id);
}

function newId(letter) {
  return letter + Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => (byte % 36).toString(36)).join("");
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

// An edit is a function of the reading, so that it can be made again on the outcome of an undo.
// A change reopens a finished study.
function edit(change, verdict = "") {
  const whole = (state) => {
    change(state);
    state.verdict = verdict;
  };
  whole(own);
  const step = queue.step(study.key);
  if (step) step.edits.push(whole);
  else queue.save(study.key, snapshot(own), takeSeconds());
  render();
}

function confirmed(change, state) {
  const here = study && study.key === change.key;
  if (change.kind === "save") {
    if (state.revision !== state.confirmed && !queue.has(change.key)) {
      message = "This study was changed in another window too; it shows that state now.";
      if (here) load(change.key, true);
    } else if (here && !queue.has(change.key)) flags = state;
    return;
  }
  const reading = readingOf(state);
  for (const again of change.edits) again(reading);
  if (change.edits.length) queue.save(change.key, snapshot(reading), 0);
  if (!here) return;
  if (!queue.step(change.key)) {
    own = reading;
    flags = state;
  }
  if (chosen && !find(chosen)) chosen = null;
  render();
}

function tick() {
  const time = now();
  if (!document.hidden && time - lastTouch < IDLE_MS) activeMs += time - counted;
  counted = time;
}

function takeSeconds() {
  tick();
  const seconds = Math.max(0, Math.min(activeMs / 1000, 300));
  activeMs = 0;
  return seconds;
}

function clean(item) {
  const { annotation_id, box_xyxy, code, coarse, assertion, origin, mention } = item;
  return { annotation_id, box_xyxy, code, coarse, assertion, origin, mention };
}

function snapshot(state) {
  return { annotations: state.annotations.map(clean), rejected: [...state.rejected], verdict: state.verdict, comment: state.comment };
}

function readingOf(state) {
  return { annotations: state.annotations.map(clean), rejected: [...state.rejected], verdict: state.verdict, comment: state.comment };
}

function step(name) {
  queue.push({ key: study.key, kind: name });
}

// studies -----------------------------------------------------------------------------------------

function apply(state) {
  own = readingOf(state);
  queue.revisions.set(study.key, state.revision);
  flags = state;
}

function facts(key) {
  const found = ahead.get(key) || request("GET", `/api/studies/${key}`);
  ahead.delete(key);
  return found;
}

function lookAhead(key) {
  const at = lines.findIndex((line) => line.key === key);
  const near = [lines[at + 1], lines[at - 1]].filter(Boolean).map((line) => line.key);
  for (const other of ahead.keys()) if (!near.includes(other)) ahead.delete(other);
  for (const other of near) {
    if (ahead.has(other) || queue.has(other)) continue;
    const promise = request("GET", `/api/studies/${other}`);
    promise.catch(() => ahead.delete(other));
    ahead.set(other, promise);
  }
  if (near.length) new Image().src = `/api/studies/${near[0]}/image`;
}

async function load(key, again = false) {
  const mine = ++opening;
  get("pane").classList.add("opening"); // a box drawn now would belong to no study
  try {
    if (queue.has(key)) await queue.settled(key); // its own changes come first
    if (again) ahead.delete(key);
    const found = await facts(key);
    if (mine !== opening) return;
    const other = !study || study.key !== found.key;
    study = found;
    apply(found);
    chosen = null;
    message = "";
    if (other) {
      history.replaceState(null, "", `#${key}`);
      viewer.show(`/api/studies/${key}/image`, study.width, study.height);
      lookAhead(key);
    }
  } catch (error) {
    if (mine !== opening) return;
    if (error instanceof Refusal && error.status === 401) queue.block("login");
    else if (error instanceof Refusal && error.status === 404) {
      lines = lines.filter((line) => line.key !== key);
      buildList();
      message = `Study ${key} is no longer on your list.`;
    } else message = "The application does not answer.";
  }
  if (mine === opening) get("pane").classList.remove("opening");
  if (study) render();
}

async function open(key) {
  if (study && study.key !== key) {
    const seconds = takeSeconds();
    if (seconds > 1) queue.push({ key: study.key, kind: "time", seconds });
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
  if (!after) render();
}

function finish(verdict) {
  chosen = null;
  edit(() => {}, verdict);
  nextOpen();
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

// past the last box Tab leaves the image
function canCycle(by) {
  const n = own.annotations.length + openSuggestions().length;
  const ids = [...own.annotations.map((item) => item.annotation_id), ...openSuggestions().map((item) => item.origin)];
  const at = ids.indexOf(chosen);
  return n > 0 && (at < 0 || (at + by >= 0 && at + by < n));
}

function remove() {
  if (!find(chosen)) return;
  const id = chosen;
  chosen = null;
  edit((state) => { state.annotations = state.annotations.filter((item) => item.annotation_id !== id); });
}

function toggleUncertain() {
  const item = find(chosen);
  if (!item) return;
  const value = item.assertion === "present" ? "uncertain" : "present";
  const id = chosen;
  edit((state) => { if (find(id, state)) find(id, state).assertion = value; });
}

function accept(suggestion) {
  const id = newId("s");
  const item = { annotation_id: id, box_xyxy: suggestion.box_xyxy, code: suggestion.code, coarse: suggestion.code ? "" : study.opacity_group, assertion: suggestion.assertion || "present", origin: suggestion.origin, mention: null };
  chosen = id;
  edit((state) => state.annotations.push({ ...item }));
}

function reject(suggestion) {
  chosen = null;
  edit((state) => state.rejected.push(suggestion.origin));
}

function chosenSuggestion() {
  return openSuggestions().find((item) => item.origin === chosen) || (find(chosen) ? null : openSuggestions()[0]);
}

function nudge(x, y) {
  const item = find(chosen);
  if (!item) return viewer.panBy(-40 * Math.sign(x), -40 * Math.sign(y));
  const [x1, y1, x2, y2] = item.box_xyxy;
  const dx = Math.min(study.width - x2, Math.max(-x1, x)), dy = Math.min(study.height - y2, Math.max(-y1, y));
  const id = chosen;
  edit((state) => { if (find(id, state)) find(id, state).box_xyxy = [x1 + dx, y1 + dy, x2 + dx, y2 + dy]; });
}

// the right and the lower edge of the chosen box, by the keyboard
function resize(x, y) {
  const item = find(chosen);
  if (!item) return;
  const [x1, y1, x2, y2] = item.box_xyxy;
  const id = chosen;
  const box = [x1, y1, Math.min(study.width, Math.max(x1 + 4, x2 + x)), Math.min(study.height, Math.max(y1 + 4, y2 + y))];
  edit((state) => { if (find(id, state)) find(id, state).box_xyxy = box; });
}

// a box in the middle of what is seen, to be moved and resized by the keyboard
function drawByKeyboard() {
  const frame = get("pane").getBoundingClientRect();
  const [x, y] = viewer.toImage(frame.left + frame.width / 2, frame.top + frame.height / 2);
  const w = study.width / 8, h = study.height / 8;
  viewer.on.draw([Math.max(0, x - w), Math.max(0, y - h), Math.min(study.width, x + w), Math.min(study.height, y + h)]);
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
  renderComment();
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
  const n = queue.unsaved;
  const refused = lost.length ? `${lost.length} change${lost.length > 1 ? "s" : ""} not saved` : "";
  state.textContent = queue.fault || (queue.blocked ? "not saved" : n ? "saving" : refused || "saved");
  state.classList.toggle("fault", Boolean(queue.fault || queue.blocked || refused));
  get("undo").disabled = !flags.can_undo && !n;
  get("redo").disabled = !flags.can_redo;
  showTrouble();
}

// what hinders saving, and what the reader can do about it
function showTrouble() {
  const place = get("trouble");
  const about = `${queue.blocked} ${lost.length} ${message}`;
  if (place.dataset.about === about) return;
  place.dataset.about = about;
  const parts = [];
  if (queue.blocked === "login") parts.push(logInRow());
  if (queue.blocked === "conflict") {
    parts.push(make("p", {}, `Study ${queue.waiting[0].key} was changed in another window. Your changes here are not saved.`),
      button("Keep mine", () => queue.keepMine().catch(() => {}), "Save this window's boxes over the others; Undo brings them back", "primary"),
      button("Take the other", () => { const { key } = queue.waiting[0]; queue.drop(key); queue.resume(); load(key, true); }));
  }
  for (const item of lost) {
    parts.push(make("p", {}, `Study ${item.key} is not saved: ${item.message}.`),
      item.reading ? button("Keep a copy", () => download(item)) : null,
      button("Discard", () => { lost = lost.filter((one) => one !== item); if (item.key === study.key) load(item.key, true); showState(); }));
  }
  if (message) parts.push(make("p", {}, message));
  place.replaceChildren(...parts.filter(Boolean));
  place.hidden = !parts.length;
}

function logInRow() {
  const field = make("input", { type: "password", placeholder: "token", autocomplete: "off" });
  field.setAttribute("aria-label", "Token");
  const note = make("span", { className: "hint" });
  const form = make("form", {}, make("p", {}, "Your session has ended. Your changes wait here; log in and they are saved."), field,
    make("button", { type: "submit", className: "primary" }, "Log in"), note);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await request("POST", "/api/login", { token: field.value.trim().split("#").pop() });
      const person = await request("GET", "/api/me");
      if (person.name !== me.name) {
        note.textContent = `These changes are ${me.name}'s; this is another person's token.`;
        return;
      }
      queue.resume();
    } catch (error) {
      note.textContent = error.message;
    }
  });
  return form;
}

function download(item) {
  const link = make("a", { href: URL.createObjectURL(new Blob([JSON.stringify(item.reading, null, 1)], { type: "application/json" })), download: `study_${item.key}_not_saved.json` });
  link.click();
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
  if (study.blinded && !own.verdict) return place.replaceChildren(make("p", { className: "hint" }, "Report and suggestions are shown after your first verdict."));
  if (!report) return place.replaceChildren(...(study.blinded ? [button("Show report and suggestions", () => load(study.key, true))] : []));
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

function renderComment() {
  const field = get("comment-text");
  if (document.activeElement !== field) field.value = own.comment || "";
}

function renderFinish() {
  const verdict = implied();
  const untyped = own.annotations.filter((item) => !item.code).length;
  const place = get("finish");
  const waiting = openSuggestions().length;
  const note = waiting ? make("p", { className: "hint" }, `${waiting} suggestion${waiting > 1 ? "s" : ""} neither accepted nor rejected`) : null;
  if (own.verdict) {
    place.replaceChildren(make("p", { className: "finished" }, `Finished: ${VERDICTS[own.verdict]}`),
      make("div", { className: "row" }, button("Reopen", () => edit(() => {})), button("Next study", () => nextOpen(), "", "primary")));
  } else if (verdict) {
    const done = untyped
      ? button(`${untyped} box${untyped > 1 ? "es" : ""} without a finding`, chooseOpen, "Go to it (Enter)", "wide")
      : button(`Finish: ${VERDICTS[verdict]}`, () => finish(verdict), "Finish (Enter)", "primary wide");
    place.replaceChildren(...(note ? [note] : []), done);
  } else {
    place.replaceChildren(...(note ? [note] : []), make("p", { className: "hint" }, "Nothing to box? Finish as"), make("div", { className: "row" },
      button("Normal", () => finish("normal"), "Normal (N)", "primary"), button("Abnormal, no box", () => finish("abnormal"), "Abnormal (B)"), button("Cannot be judged", () => finish("unusable"), "Cannot be judged (C)")));
  }
}

function updateLine() {
  const line = lines.find((item) => item.key === study.key);
  if (!line) return;
  Object.assign(line, { boxes: own.annotations.length, verdict: own.verdict, started: own.annotations.length > 0 });
  fillRow(line);
  const row = rows.get(line.key);
  if (row !== currentRow) {
    if (currentRow) currentRow.classList.remove("current");
    if (row) row.classList.add("current");
    currentRow = row;
  }
}

function countDone() {
  if (buildingList) return;
  const done = lines.filter((line) => line.verdict).length;
  const place = get("list").querySelector(".progress");
  place.firstChild.textContent = `${done} of ${lines.length} finished`;
  place.querySelector("progress").value = done;
}

function fillRow(line) {
  const row = rows.get(line.key);
  const shown = `${line.verdict} ${line.started} ${line.boxes}`;
  if (!row || row.dataset.shown === shown) return;
  const counts = Boolean(line.verdict) !== row.classList.contains("done");
  row.dataset.shown = shown;
  row.classList.toggle("done", Boolean(line.verdict));
  row.replaceChildren(make("span", { className: "mark" }, line.verdict ? "✓" : line.started ? "◐" : "○"), `Study ${line.key}`,
    make("small", {}, line.boxes ? `${line.boxes} box${line.boxes > 1 ? "es" : ""}` : ""));
  if (counts) countDone();
}

// the list is built once; later only the row of a changed study is
function buildList() {
  rows = new Map(lines.map((line) => {
    const row = make("button", { type: "button", className: "study" });
    row.addEventListener("click", () => open(line.key));
    return [line.key, row];
  }));
  get("list").replaceChildren(make("p", { className: "progress" }, "", make("progress", { max: lines.length || 1, value: 0 })), ...rows.values());
  get("list").querySelector(".progress").prepend(document.createTextNode(""));
  currentRow = null;
  buildingList = true;
  lines.forEach(fillRow);
  buildingList = false;
  countDone();
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
  logout: async () => {
    if (study && queue.has(study.key)) await queue.settled(study.key);
    logOut();
  },
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
  w: ACTIONS["window-tool"], u: toggleUncertain, Delete: remove, d: drawByKeyboard,
  n: () => { if (canFinishEmpty()) finish("normal"); }, b: () => { if (canFinishEmpty()) finish("abnormal"); }, c: () => { if (canFinishEmpty()) finish("unusable"); },
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
function canFinishEmpty() {
  return !own.annotations.length && !own.verdict;
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  lastTouch = now();
  if (!study || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.altKey) return;
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  let action;
  if (event.ctrlKey || event.metaKey) {
    if (name === "z") action = () => step(event.shiftKey ? "redo" : "undo");
    else if (name === "y") action = () => step("redo");
    else if (ARROWS[name] && find(chosen)) action = () => resize(...ARROWS[name].map((side) => side * (event.shiftKey ? 10 : 1)));
  } else if (ARROWS[name]) action = () => nudge(...ARROWS[name].map((side) => side * (event.shiftKey ? 10 : 1)));
  else if (event.shiftKey && /^Digit[1-6]$/.test(event.code) && find(chosen)) action = () => typing.reportDigit(Number(event.code.slice(5)));
  else if (/^[0-9]$/.test(name) && find(chosen)) action = () => typing.digit(Number(name));
  else if (name === "Tab" && document.activeElement === get("pane") && canCycle(event.shiftKey ? -1 : 1)) action = () => cycle(event.shiftKey ? -1 : 1);
  else if ((name === "Enter" || name === " ") && event.target.tagName === "BUTTON") return;
  else action = KEYS[name];
  if (!action) return;
  event.preventDefault();
  action();
});

get("comment-text").addEventListener("change", (event) => {
  const { value } = event.target;
  if (study && value !== own.comment) edit((state) => { state.comment = value; }, own.verdict);
});
for (const name of ["pointerdown", "pointermove", "wheel"]) document.addEventListener(name, () => { lastTouch = now(); }, { passive: true });
setInterval(tick, 1000);
window.addEventListener("beforeunload", (event) => { if (queue.unsaved || lost.length) event.preventDefault(); });

async function start() {
  me = await request("GET", "/api/me");
  get("who").textContent = me.role === "manager" ? "Adjudication" : me.name;
  get("manage").hidden = me.role !== "manager";
  lines = await request("GET", "/api/studies");
  buildList();
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
