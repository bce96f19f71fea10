// The reader's desk: one study at a time; every change is queued and shown as unsaved until the
// server has confirmed it.
import { listen } from "/static/controls.js";
import { showComment, showFindings, showFinish, source } from "/static/panels.js";
import { linkId, mergedLinks, ReportPanel } from "/static/report.js";
import { Refusal, request } from "/static/request.js";
import { ChangeQueue } from "/static/saving.js";
import { StudyList } from "/static/study_list.js";
import { showTrouble } from "/static/trouble.js";
import { Typing } from "/static/typing.js";
import { Viewer } from "/static/viewer.js";

const get = (id) => document.getElementById(id);
const now = () => performance.now(); // the clock of the day may be set back
const IDLE_MS = 60000; // without a hand on mouse or keyboard no time is counted

let me = null;
let study = null; // facts of the open study
let own = null; // {annotations, rejected, verdict, comment, mentions}: what the reader sees
let links = []; // the report's mentions with the reader's decisions
let flags = { can_undo: false, can_redo: false };
let chosen = null; // id of a box, origin of a suggestion, or id of a mention
let opening = 0; // the latest study that was asked for
let message = ""; // about the study list
let lost = []; // {id, key, message, reading}: what the server refused
let prior = -1; // which of the earlier studies stands beside
let linked = Promise.resolve(); // resolves when the server knows the reader's links
let lastTouch = now();
let counted = now();
let activeMs = 0;
const ahead = new Map(); // study key -> promise of its facts, asked for before it is opened

const list = new StudyList(get("list"), (key) => open(key));

const queue = new ChangeQueue({
  state: () => { if (study) showState(); },
  confirmed: (change, state) => confirmed(change, state),
  answers: () => { if (study) render(); }, // the choices of a box could not be asked for meanwhile
  refused: (changes, text) => {
    const saves = changes.filter((change) => change.kind === "save");
    lost.push({ id: changes[0].id, key: changes[0].key, message: text, reading: saves.length ? saves[saves.length - 1].reading : null });
    showState();
  },
});

const viewer = new Viewer(get("pane"), {
  draw: (box) => addBox({ annotation_id: newId("b"), box_xyxy: box, code: "", coarse: "", assertion: "present", origin: "drawn", mention: null }),
  change: (id, box) => editBox(id, { box_xyxy: box }),
  choose: (id) => choose(id),
});

const typing = new Typing(get("typing"), {
  type: (value) => editBox(chosen, value),
  done: () => choose(null),
  uncertain: () => toggleUncertain(),
  remove: () => remove(),
  link: (changes) => reviseLink(changes),
  accept: () => acceptChosen(),
  reset: () => resetLink(),
  linked: () => linked,
  version: () => JSON.stringify(own.mentions),
});

const report = new ReportPanel(get("report"), {
  choose: (id) => choose(id),
  add: (start, end) => addLink(start, end),
  reveal: () => load(study.key, true),
  acceptAll: () => decide(links.filter((link) => !link.decided)),
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

function implied() {
  const isOpacity = ({ code }) => study.opacity.includes(code.split("/")[0]);
  if (own.annotations.some(isOpacity)) return "opacity";
  return own.annotations.length ? "abnormal" : "";
}

// saving ------------------------------------------------------------------------------------------

// An edit is a function of the reading, so that it can be made again on the outcome of an undo.
// A change of boxes reopens a finished study.
function edit(change, verdict = "") {
  const whole = (state) => {
    change(state);
    state.verdict = verdict;
  };
  whole(own);
  const step = queue.step(study.key);
  if (step) step.edits.push(whole);
  else queue.save(study.key, readingOf(own), takeSeconds());
  render();
}

function editBox(id, value) {
  if (find(id)) edit((state) => Object.assign(find(id, state) || {}, value));
}

function addBox(item) {
  chosen = item.annotation_id;
  edit((state) => state.annotations.push({ ...item }));
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
  if (change.edits.length) queue.save(change.key, readingOf(reading), 0);
  if (!here) return;
  if (!queue.step(change.key)) {
    own = reading;
    flags = state;
  }
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

// a copy of a reading without what the server adds
function readingOf({ annotations, rejected, verdict, comment, mentions }) {
  const boxes = annotations.map(({ annotation_id, box_xyxy, code, coarse, assertion, origin, mention }) => ({ annotation_id, box_xyxy, code, coarse, assertion, origin, mention }));
  return { annotations: boxes, rejected: [...rejected], verdict, comment, mentions: mentions.map((link) => ({ ...link })) };
}

function step(name) {
  queue.push({ key: study.key, kind: name });
}

// studies -----------------------------------------------------------------------------------------

function facts(key) {
  const found = ahead.get(key) || request("GET", `/api/studies/${key}`);
  ahead.delete(key);
  return found;
}

function lookAhead(key) {
  const near = [list.neighbour(key, 1), list.neighbour(key, -1)].filter(Boolean).map((line) => line.key);
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
    show(found);
  } catch (error) {
    if (mine !== opening) return;
    if (error instanceof Refusal && error.status === 401) queue.block("login");
    else if (error instanceof Refusal && error.status === 404) {
      message = `Study ${number(key)} is no longer on your list.`;
      list.drop(key);
    } else message = "The application does not answer.";
  }
  if (mine === opening) get("pane").classList.remove("opening");
  if (study) render();
}

function show(found) {
  const other = !study || study.key !== found.key;
  study = found;
  own = readingOf(found);
  flags = found;
  queue.revisions.set(found.key, found.revision);
  chosen = null;
  message = "";
  linked = Promise.resolve();
  if (!other) return;
  history.replaceState(null, "", `#${found.key}`);
  viewer.show(`/api/studies/${found.key}/image`, found.width, found.height, found.spacing_mm);
  get("ruler-tool").setAttribute("aria-pressed", String(viewer.tool === "ruler"));
  prior = -1;
  showPrior();
  lookAhead(found.key);
}

async function open(key) {
  if (study && study.key !== key) {
    const seconds = takeSeconds();
    if (seconds > 1) queue.push({ key: study.key, kind: "time", seconds });
  }
  await load(key);
}

function go(by) {
  const line = list.neighbour(study.key, by);
  if (line) open(line.key);
}

function nextOpen() {
  const after = list.nextOpen(study.key);
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

function number(key) {
  const line = list.find(key);
  return line ? line.number : key;
}

// an earlier film of the patient beside the present one, then the one before it, then none
function showPrior() {
  const found = study.priors[prior];
  get("prior").hidden = !study.priors.length;
  get("prior").setAttribute("aria-pressed", String(Boolean(found)));
  get("prior-pane").hidden = !found;
  if (!found) return;
  get("prior-image").src = `/api/studies/${study.key}/prior/${found.key}`;
  const when = found.days === null ? "" : `, ${found.days} day${found.days === 1 ? "" : "s"} earlier`;
  get("prior-note").textContent = `Prior ${prior + 1} of ${study.priors.length}${found.view ? `, ${found.view}` : ""}${when}`;
}

function nextPrior() {
  prior = prior + 1 < study.priors.length ? prior + 1 : -1;
  showPrior();
}

// choosing ----------------------------------------------------------------------------------------

function choose(id) {
  chosen = id;
  render();
}

function chosenLink() {
  return links.find((link) => linkId(link) === chosen);
}

// the first box that has no finding yet
function chooseOpen() {
  const item = own.annotations.find((one) => !one.code);
  if (item) choose(item.annotation_id);
}

function boxIds() {
  return [...own.annotations.map((item) => item.annotation_id), ...openSuggestions().map((item) => item.origin)];
}

// past the last box Tab leaves the image
function canCycle(by) {
  const ids = boxIds(), at = ids.indexOf(chosen);
  return ids.length > 0 && (at < 0 || (at + by >= 0 && at + by < ids.length));
}

function cycle(by) {
  const ids = boxIds();
  choose(ids[(ids.indexOf(chosen) + by + ids.length) % ids.length]);
}

function cycleLinks(by) {
  const ids = links.map(linkId);
  if (ids.length) choose(ids[(ids.indexOf(chosen) + (ids.includes(chosen) || by > 0 ? by : 0) + ids.length) % ids.length]);
}

function remove() {
  const id = chosen;
  if (!find(id)) return;
  chosen = null;
  edit((state) => { state.annotations = state.annotations.filter((item) => item.annotation_id !== id); });
}

function toggleUncertain() {
  const item = find(chosen);
  if (item) editBox(chosen, { assertion: item.assertion === "present" ? "uncertain" : "present" });
}

function chosenSuggestion() {
  return openSuggestions().find((item) => item.origin === chosen) || (find(chosen) ? null : openSuggestions()[0]);
}

function accept(suggestion) {
  const { box_xyxy, code, origin } = suggestion;
  addBox({ annotation_id: newId("s"), box_xyxy, code, coarse: code ? "" : study.opacity_group, assertion: suggestion.assertion || "present", origin, mention: null });
}

function reject(suggestion) {
  chosen = null;
  edit((state) => state.rejected.push(suggestion.origin));
}

function acceptChosen() {
  const link = chosenLink();
  if (link) {
    decide([link]);
    return cycleLinks(1);
  }
  const item = chosenSuggestion();
  if (item) accept(item);
}

function rejectChosen() {
  if (chosenLink()) return reviseLink({ code: "NIL" });
  const item = chosenSuggestion();
  if (item) reject(item);
}

function moveBox(x, y, resize) {
  const [x1, y1, x2, y2] = find(chosen).box_xyxy;
  const { width, height } = study;
  if (resize) return editBox(chosen, { box_xyxy: [x1, y1, Math.min(width, Math.max(x1 + 4, x2 + x)), Math.min(height, Math.max(y1 + 4, y2 + y))] });
  const dx = Math.min(width - x2, Math.max(-x1, x)), dy = Math.min(height - y2, Math.max(-y1, y));
  editBox(chosen, { box_xyxy: [x1 + dx, y1 + dy, x2 + dx, y2 + dy] });
}

// a box in the middle of what is seen, to be moved and resized by the keyboard
function drawInTheMiddle() {
  const [x, y] = viewer.middle();
  const w = study.width / 8, h = study.height / 8;
  viewer.on.draw([Math.max(0, x - w), Math.max(0, y - h), Math.min(study.width, x + w), Math.min(study.height, y + h)]);
}

// links of the report -----------------------------------------------------------------------------

// The reader's decisions on these links; they change no box and no verdict.
function decide(changed) {
  const ids = new Set(changed.map(linkId));
  const made = changed.map(({ start, end, code, assertion }) => ({ start, end, code, assertion }));
  edit((state) => { state.mentions = [...state.mentions.filter((link) => !ids.has(linkId(link))), ...made]; }, own.verdict);
  linked = queue.settled(study.key);
}

function reviseLink(changes) {
  const link = chosenLink();
  // who says what the report states of a link without a finding takes the linker's finding back
  const code = link.code === "NIL" && changes.assertion && link.proposed ? link.proposed.code : link.code;
  decide([{ ...link, code, ...changes }]);
}

function resetLink() {
  const id = chosen;
  edit((state) => { state.mentions = state.mentions.filter((link) => linkId(link) !== id); }, own.verdict);
  linked = queue.settled(study.key);
}

function addLink(start, end) {
  chosen = linkId({ start, end });
  decide([{ start, end, code: "NIL", assertion: "present" }]);
}

// drawing the page --------------------------------------------------------------------------------

function label(item) {
  if (!item.code) return item.coarse ? `${item.coarse} ?` : "?";
  return (item.code === "NIL" ? "NIL" : item.code.split("/")[0]) + (item.assertion === "uncertain" ? " ?" : "");
}

function render() {
  links = study.report ? mergedLinks(study.report.mentions, own.mentions) : [];
  const suggestions = openSuggestions();
  if (chosen && !find(chosen) && !chosenLink() && !suggestions.some((item) => item.origin === chosen)) chosen = null;
  const item = find(chosen);
  viewer.items = [
    ...suggestions.map((one) => ({ id: one.origin, box: one.box_xyxy, kind: "suggested", chosen: one.origin === chosen, label: one.score === null ? `${source(one.origin)}: ${one.code}` : `model ${Math.round(one.score * 100)} %` })),
    ...own.annotations.map((one) => ({ id: one.annotation_id, box: one.box_xyxy, kind: "own", chosen: one === item, label: label(one) })),
  ];
  viewer.draw();
  showFindings(get("findings"), { annotations: own.annotations, suggestions, chosen }, { choose, accept, reject });
  report.show({ report: study.report, links, chosen, used: item && item.mention ? item.mention[0] : null, hidden: study.blinded && !own.verdict, canReveal: study.blinded });
  const untyped = own.annotations.filter((one) => !one.code).length;
  showFinish(get("finish"), { verdict: own.verdict, implied: implied(), untyped, waiting: suggestions.length },
    { chooseOpen, finish, reopen: () => edit(() => {}), next: nextOpen });
  showComment(get("comment-text"), own.comment);
  showTyping(item);
  get("title").textContent = `Study ${number(study.key)}${study.view ? `, ${study.view}` : ""}`;
  get("place").textContent = `${list.index(study.key) + 1} of ${list.lines.length}`;
  list.update(study.key, own);
  showState();
}

function showTyping(item) {
  const link = chosenLink();
  if (item) typing.show(study, item);
  else if (link) {
    const words = Array.from(study.report.text).slice(link.start, link.end).join("");
    typing.show(study, { link, words, code: link.code, coarse: "" });
  } else typing.hide();
}

function showState() {
  const state = get("state");
  const n = queue.unsaved;
  const refused = lost.length ? `${lost.length} change${lost.length > 1 ? "s" : ""} not saved` : "";
  state.textContent = queue.fault || (queue.blocked ? "not saved" : n ? "saving" : refused || "saved");
  state.classList.toggle("fault", Boolean(queue.fault || queue.blocked || refused));
  get("undo").disabled = !flags.can_undo && !n;
  get("redo").disabled = !flags.can_redo;
  showTrouble(get("trouble"), queue, desk);
}

// What controls.js and trouble.js see of the desk.
const desk = {
  viewer, typing, queue, number, choose, step, go, nextPrior, cycleLinks, canCycle, cycle, remove, toggleUncertain, drawInTheMiddle, moveBox, acceptChosen, rejectChosen, reviseLink,
  get me() { return me; },
  get study() { return study; },
  get message() { return message; },
  get lost() { return lost; },
  box: () => find(chosen),
  link: chosenLink,
  isTyping: () => Boolean(find(chosen) || chosenLink()),
  settled: () => (study ? queue.settled(study.key) : Promise.resolve()),
  touched: () => { lastTouch = now(); },
  take: (key) => load(key, true),
  finishEmpty: (verdict) => { if (!own.annotations.length && !own.verdict) finish(verdict); },
  comment: (text) => { if (study && text !== own.comment) edit((state) => { state.comment = text; }, own.verdict); },
  forget: (item) => {
    lost = lost.filter((one) => one !== item);
    if (item.key === study.key) load(item.key, true);
    showState();
  },
  enter: () => {
    const item = find(chosen);
    if (item) { if (item.code) choose(null); } else if (chosenLink()) choose(null);
    else if (own.verdict) nextOpen();
    else if (own.annotations.some((one) => !one.code)) chooseOpen();
    else if (implied()) finish(implied());
  },
};

async function start() {
  listen(desk);
  setInterval(tick, 1000);
  me = await request("GET", "/api/me");
  get("who").textContent = me.role === "manager" ? "Adjudication" : me.name;
  get("manage").hidden = me.role !== "manager";
  list.show(await request("GET", "/api/studies"));
  const wanted = Number(location.hash.slice(1));
  const first = list.find(wanted) || list.lines.find((line) => !line.verdict) || list.lines[0];
  if (first) await load(first.key);
  else {
    get("message").textContent = "There is no study on your list yet. The manager assigns them.";
    get("message").hidden = false;
  }
  document.body.dataset.ready = "1";
  get("pane").focus({ preventScroll: true });
}

start();
