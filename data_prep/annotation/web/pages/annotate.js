// The reader's page: one study at a time; every change is queued and shown as unsaved until the
// server has confirmed it.
import { LookAhead } from "/static/ahead.js";
import { WorkClock } from "/static/clock.js";
import { listen } from "/static/controls.js";
import { showComment, showFindings, showFinish, viewerItems } from "/static/panels.js";
import { PriorFilm } from "/static/prior.js";
import { acceptedBox, boxAround, impliedVerdict, movedBox, newBox, readingOf } from "/static/reading.js";
import { linkId, linkItem, mergedLinks, ReportPanel } from "/static/report.js";
import { Refusal, actFor, request } from "/static/request.js";
import { ChangeQueue } from "/static/saving.js";
import { StudyList } from "/static/study_list.js";
import { showTrouble } from "/static/trouble.js";
import { Typing } from "/static/typing.js";
import { Viewer } from "/static/viewer.js";

const get = (id) => document.getElementById(id);

let me = null;
let study = null; // facts of the open study
let own = null; // {annotations, rejected, verdict, comment, mentions}: what the reader sees
let links = []; // the report's mentions with the reader's decisions
let flags = { can_undo: false, can_redo: false };
let chosen = null; // id of a box, origin of a suggestion, or id of a mention
let opening = 0; // the latest study that was requested
let message = ""; // about the study list
let lost = []; // {id, key, message, reading}: changes that the server refused
let linked = Promise.resolve(); // resolves when the server knows the reader's links

const clock = new WorkClock();
const prior = new PriorFilm();
const ahead = new LookAhead();
const list = new StudyList(get("list"), (key) => open(key));

const queue = new ChangeQueue({
  state: () => { if (study) showState(); },
  confirmed: (change, state) => confirmed(change, state),
  answers: () => { if (study) render(); }, // the choices of a box could not be requested meanwhile
  refused: (changes, text) => {
    const saves = changes.filter((change) => change.kind === "save");
    lost.push({ id: changes[0].id, key: changes[0].key, message: text, reading: saves.length ? saves[saves.length - 1].reading : null });
    showState();
  },
});

const viewer = new Viewer(get("pane"), {
  draw: (box) => addBox(newBox(box)),
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

const find = (id, state = own) => state.annotations.find((item) => item.annotation_id === id);

function openSuggestions() {
  const taken = new Set([...own.rejected, ...own.annotations.map((item) => item.origin)]);
  return study.suggestions.filter((item) => !taken.has(item.origin));
}

const implied = () => impliedVerdict(own.annotations, study.opacity);

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
  else queue.save(study.key, readingOf(own), clock.take());
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
      message = "This study was also changed in another window; that state is shown now.";
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

const step = (name) => queue.push({ key: study.key, kind: name });

// studies -----------------------------------------------------------------------------------------

function setOpening(on) {
  get("pane").classList.toggle("opening", on);
  document.querySelector("aside").inert = on;
}

async function load(key, again = false) {
  const mine = ++opening;
  setOpening(true); // no study is open now to which a box or a verdict could belong
  try {
    if (queue.has(key)) await queue.settled(key); // its own changes come first
    if (again) ahead.forget(key);
    const found = await ahead.take(key);
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
  if (mine === opening) setOpening(false);
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
  prior.open(found);
  const near = [list.neighbour(found.key, 1), list.neighbour(found.key, -1)].filter(Boolean).map((line) => line.key);
  ahead.ask(near.filter((key) => !queue.has(key)));
}

async function open(key) {
  if (study && study.key !== key) {
    const seconds = clock.take();
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

const number = (key) => (list.find(key) || { number: key }).number;

// choosing ----------------------------------------------------------------------------------------

function choose(id) {
  chosen = id;
  render();
}

const chosenLink = () => links.find((link) => linkId(link) === chosen);

// the first box that has no finding yet
function chooseOpen() {
  choose(own.annotations.find((one) => !one.code).annotation_id);
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
  const ids = links.map(linkId), at = ids.indexOf(chosen);
  if (ids.length) choose(ids[(at + (at < 0 && by < 0 ? 0 : by) + ids.length) % ids.length]);
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

const accept = (suggestion) => addBox(acceptedBox(suggestion, study.opacity_group));

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
  editBox(chosen, { box_xyxy: movedBox(find(chosen).box_xyxy, x, y, study, resize) });
}

// a box in the middle of the visible part, to be moved and resized by the keyboard
function drawInTheMiddle() {
  viewer.on.draw(boxAround(viewer.middle(), study));
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
  // an assertion given for a link without a finding restores the linker's finding
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

function render() {
  links = study.report ? mergedLinks(study.report.mentions, own.mentions) : [];
  const suggestions = openSuggestions();
  if (chosen && !find(chosen) && !chosenLink() && !suggestions.some((item) => item.origin === chosen)) chosen = null;
  const item = find(chosen);
  viewer.items = viewerItems(suggestions, own.annotations, chosen);
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
  if (item || link) typing.show(study, item || linkItem(link, study.report.text));
  else typing.hide();
}

function showState() {
  const state = get("state");
  const n = queue.unsaved;
  state.textContent = queue.status(lost.length);
  state.classList.toggle("fault", Boolean(queue.fault || queue.blocked || lost.length));
  get("undo").disabled = !flags.can_undo && !n;
  get("redo").disabled = !flags.can_redo;
  showTrouble(get("trouble"), queue, desk);
}

// The interface for controls.js and trouble.js.
const desk = {
  viewer, typing, report, queue, number, choose, step, go, cycleLinks, canCycle, cycle, remove, toggleUncertain, drawInTheMiddle, moveBox, acceptChosen, rejectChosen, reviseLink,
  get me() { return me; },
  get study() { return study; },
  get message() { return message; },
  get lost() { return lost; },
  box: () => find(chosen),
  link: chosenLink,
  isTyping: () => Boolean(find(chosen) || chosenLink()),
  settled: () => (study ? queue.settled(study.key) : Promise.resolve()),
  isOpening: () => get("pane").classList.contains("opening"),
  touched: () => clock.touch(),
  nextPrior: () => prior.next(),
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
  me = await request("GET", "/api/me");
  actFor(me.name);
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
