// The manager's page: people, assignment, progress, agreement, disagreements, exports.
import { compare } from "/static/compare.js";
import { logOut, make, request, upload } from "/static/request.js";

const get = (id) => document.getElementById(id);
const LEVELS = ["group", "heading", "1st qualifier", "2nd qualifier", "3rd qualifier"];
const share = (value) => (value === null ? "–" : `${(100 * value).toFixed(0)} %`);
const figure = (value) => (value === null ? "–" : value.toFixed(2));
const time = (seconds) => (seconds === null ? "–" : seconds < 90 ? `${seconds.toFixed(0)} s` : seconds < 5400 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`);
const PAGE = 100; // rows on one page of studies: all 4,000 at once took seconds to lay out
let view = null;
let page = 0;
let shownDisputes = PAGE;

function table(header, rows, caption) {
  const numeric = (value) => typeof value === "number" || /^[-–\d][\d.]*( %.*| s| min| h)?$/.test(String(value));
  const right = header.map((_, column) => rows.length > 0 && rows.every((row) => !(row[column] instanceof Node) && numeric(row[column])));
  const cell = (tag, value, column) => make(tag, { className: right[column] ? "num" : "" }, value instanceof Node ? value : String(value));
  const line = (tag, values) => make("tr", {}, ...values.map((value, column) => cell(tag, value, column)));
  return make("table", {}, caption ? make("caption", {}, caption) : null, make("thead", {}, line("th", header)), make("tbody", {}, ...rows.map((row) => line("td", row))));
}

function act(text, run, className = "link") {
  const found = make("button", { type: "button", className }, text);
  found.addEventListener("click", () => guarded(run));
  return found;
}

async function guarded(run) {
  get("fault").textContent = "";
  try {
    await run();
  } catch (error) {
    get("fault").textContent = error.message;
    window.scrollTo(0, 0);
  }
}

function showToken({ name, token }) {
  const link = `${location.origin}/login#${token}`;
  get("token").replaceChildren(`Give ${name} this link; it is shown only now: `, make("code", { id: "link" }, link));
  get("token").hidden = false;
}

function showPeople() {
  const rows = view.annotators.map((person) => [
    make("b", {}, person.name), person.active ? "yes" : "no", person.assigned, person.finished, person.started, person.boxes, time(person.median_s), time(person.total_s),
    make("span", {}, act("new link", async () => { showToken(await request("POST", "/api/manage/annotators/renew", { name: person.name })); await refresh(); }),
      person.active ? act("revoke", async () => { await request("POST", "/api/manage/annotators/revoke", { name: person.name }); await refresh(); }) : null),
  ]);
  get("people-table").replaceChildren(rows.length ? table(["name", "may log in", "assigned", "finished", "begun", "boxes", "median a study", "time in all", ""], rows) : make("p", { className: "hint" }, "No annotators yet. Add the first one below; each gets a link."));
}

const stateOf = (study) => (study.doubt ? study.doubt.replaceAll("_", " ") : study.class ? `${study.class} (${study.source})` : "");

// One page of the studies whose file name or state contains the searched text.
function showStudies() {
  const wanted = get("study-find").value.trim().toLowerCase();
  const found = wanted ? view.studies.filter((study) => `${study.key} ${study.file} ${study.reason ? `cannot be read: ${study.reason}` : stateOf(study)}`.toLowerCase().includes(wanted)) : view.studies;
  page = Math.max(0, Math.min(page, Math.ceil(found.length / PAGE) - 1));
  const first = page * PAGE;
  const part = found.slice(first, first + PAGE);
  get("study-place").textContent = found.length ? `${first + 1} to ${first + part.length} of ${found.length}` : "no study found";
  get("study-back").disabled = page === 0;
  get("study-next").disabled = first + PAGE >= found.length;
  const names = view.annotators.map((person) => person.name);
  get("study-table").replaceChildren(table(["", "file", "truth", ...names, ""], part.map((study) => studyRow(study, names))));
}

function studyRow(study, names) {
  if (study.reason) return [study.key, study.file, make("span", { className: "doubt" }, `cannot be read: ${study.reason}`), ...names.map(() => ""), ""];
  const state = study.doubt ? make("span", { className: "doubt" }, stateOf(study)) : stateOf(study);
  const cells = names.map((name) => {
    const reading = study.readers[name];
    const on = study.assigned.includes(name);
    const box = make("input", { type: "checkbox", checked: on, title: on ? "Take it off the list" : "Put it on the list" });
    box.setAttribute("aria-label", `Study ${study.key} on the list of ${name}`);
    box.addEventListener("change", () => guarded(() => assign(study, name, box)));
    return make("span", {}, box, reading ? ` ${reading.verdict || "begun"}${reading.boxes ? `, ${reading.boxes}` : ""}` : "");
  });
  return [study.key, study.file, state, ...cells, act("compare", () => compare(get("compare"), study.key))];
}

// Changes one assignment; the box shows what the server has confirmed.
async function assign(study, name, box) {
  const on = box.checked;
  box.disabled = true;
  try {
    await request("POST", "/api/manage/assign", { name, key: study.key, on });
  } catch (error) {
    box.checked = !on;
    throw error;
  } finally {
    box.disabled = false;
  }
  const others = study.assigned.filter((other) => other !== name);
  const before = study.assigned.length - others.length;
  study.assigned = on ? [...others, name] : others;
  box.title = on ? "Take it off the list" : "Put it on the list";
  view.annotators.find((person) => person.name === name).assigned += Number(on) - before;
  showPeople();
}

function showDisputes() {
  const open = (study, note) => act(`Study ${study.key}${note}`, () => compare(get("compare"), study.key), "dispute");
  const doubtful = view.studies.filter((study) => study.doubt);
  const decided = view.studies.filter((study) => study.differs && !study.doubt);
  const more = Math.max(doubtful.length, decided.length) - shownDisputes;
  get("dispute-list").replaceChildren(...(doubtful.length ? doubtful.slice(0, shownDisputes).map((study) => open(study, `: ${stateOf(study)}`)) : [make("p", {}, "None.")]),
    ...(decided.length ? [make("p", { className: "hint" }, "Readers differ here too, but a vote or your adjudication decides:"), ...decided.slice(0, shownDisputes).map((study) => open(study, ""))] : []),
    ...(more > 0 ? [make("p", {}, act(`Show more (${doubtful.length} in doubt, ${decided.length} decided in all)`, () => { shownDisputes += PAGE; showDisputes(); }))] : []));
}

function showCounts() {
  const good = view.studies.filter((study) => !study.reason);
  const count = (text, n, alarm) => make("li", { className: alarm && n ? "alarm" : "" }, make("b", {}, String(n)), text);
  get("counts").replaceChildren(count("studies", good.length), count("with a truth", good.filter((study) => study.class).length), count("in doubt", good.filter((study) => study.doubt).length, true),
    count("not finished by any reader", good.filter((study) => !study.class && !study.doubt).length), count(view.studies.length - good.length === 1 ? "file cannot be read" : "files cannot be read", view.studies.length - good.length, true));
}

async function showAgreement() {
  const found = await request("GET", `/api/manage/agreement?iou=${Number(get("iou").value) || 0.5}`);
  if (!found.pairs.length && !found.repeats.length) return get("agreement-tables").replaceChildren(make("p", {}, "Available when two annotators have finished the same study."));
  const pairRow = (pair) => [pair.annotators.join(" – ").replaceAll("#2", " again"), pair.n_studies, share(pair.verdict_percent), figure(pair.verdict_kappa), pair.boxes.join(" / "), pair.n_matched, share(pair.box_f1), figure(pair.mean_iou)];
  const pairHeader = ["pair", "studies", "same verdict", "Cohen's kappa", "boxes", "matched", "box F1", "mean IoU"];
  const pairs = found.pairs.map(pairRow);
  const levels = found.pairs.map((pair) => [pair.annotators.join(" – "), ...pair.levels.map((level) => `${share(level.percent)}  (${figure(level.kappa)})`)]);
  levels.push(["all, Fleiss over boxes", ...found.finding_fleiss.map(figure)]);
  const errors = found.errors.map((row) => [row.annotator, row.n_studies, row.n_consensus, row.hits, row.missed, row.extra, figure(row.mean_iou), row.wrong_verdict, row.wrong_at.map((n, level) => (n ? `${n} at ${LEVELS[level] || "deeper"}` : "")).filter(Boolean).join(", ") || "none",
    row.confused.slice(0, 3).map(([own, common, n]) => `${own} for ${common}${n > 1 ? ` (${n})` : ""}`).join("; ")]);
  get("agreement-tables").replaceChildren(
    table(pairHeader, pairs, `Verdicts and boxes. Fleiss' kappa of all verdicts: ${figure(found.verdict_fleiss)}`),
    table(["pair", ...LEVELS], levels, "Same finding on matched boxes, by depth of the hierarchy: share (Cohen's kappa)"),
    table(["annotator", "studies", "boxes of the consensus", "hit", "missed", "extra", "mean IoU", "other verdict", "other finding", "most often"], errors, "Each annotator against the consensus (studies with two readers or more, or adjudicated)"),
    ...(found.repeats.length ? [table(pairHeader, found.repeats.map(pairRow), "Each reader's first against second readings of the same studies")] : []),
    ...(found.links.length ? [table(["pair", "mentions", "same link", "Cohen's kappa"], found.links.map((pair) => [pair.annotators.join(" – "), pair.n_mentions, share(pair.percent), figure(pair.kappa)]), "Links of the reports, where a reader revised them: same finding and same assertion")] : []));
}

let savedGuidelines = "";

function showSettings() {
  const { blind, shuffle, guidelines } = view.settings;
  get("blind").checked = blind;
  get("shuffle").checked = shuffle;
  // text that is not saved yet is not overwritten, wherever the focus is
  if (get("guidelines").value === savedGuidelines) {
    get("guidelines").value = guidelines;
    savedGuidelines = get("guidelines").value;
  }
  const before = get("importer").value;
  get("importer").replaceChildren(...view.annotators.map(({ name }) => new Option(name)));
  if (view.annotators.some(({ name }) => name === before)) get("importer").value = before;
}

// status of each file, as text
function importLine(name, { kind, left_out: leftOut, ...counts }) {
  const words = (table) => Object.entries(table).map(([key, n]) => `${n} ${key.replaceAll("_", " ")}`).join(", ");
  return make("p", {}, make("b", {}, name), ` (${kind}): ${words(counts)}${Object.keys(leftOut).length ? `; left out: ${words(leftOut)}` : ""}`);
}

async function importFiles() {
  const lines = [];
  for (const file of get("files").files) {
    get("import-done").replaceChildren(...lines, make("p", {}, `reading ${file.name} ...`));
    const path = `/api/manage/import?annotator=${encodeURIComponent(get("importer").value)}`;
    lines.push(await upload(path, file).then((counts) => importLine(file.name, counts), (error) => make("p", { className: "fault" }, `${file.name}: ${error.message}`)));
  }
  get("import-done").replaceChildren(...lines);
  await refresh();
}

async function refresh() {
  view = await request("GET", "/api/manage/overview");
  showCounts();
  showSettings();
  showPeople();
  showStudies();
  showDisputes();
  if (!get("agreement-tables").hasChildNodes()) get("agreement-tables").replaceChildren(make("p", { className: "hint" }, "computing ..."));
  await showAgreement();
  document.body.dataset.ready = "1";
}

function onSubmit(id, run) {
  get(id).addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(run);
  });
}

onSubmit("add", async () => {
  showToken(await request("POST", "/api/manage/annotators", { name: get("name").value, assign_all: get("assign-all").checked }));
  get("name").value = "";
  await refresh();
});
onSubmit("share", async () => {
  await request("POST", "/api/manage/share", { readers: Number(get("readers").value) });
  await refresh();
});
onSubmit("repeat", async () => {
  await request("POST", "/api/manage/repeats", { percent: Number(get("percent").value) });
  await refresh();
});
onSubmit("import", importFiles);
onSubmit("guidelines-form", async () => {
  const text = get("guidelines").value;
  await request("POST", "/api/manage/settings", { guidelines: text });
  savedGuidelines = text;
  get("guidelines-done").textContent = "saved";
});
for (const name of ["blind", "shuffle"]) {
  get(name).addEventListener("change", (event) => guarded(() => request("POST", "/api/manage/settings", { [name]: event.target.checked })));
}
get("rescan").addEventListener("click", () => guarded(async () => {
  get("rescan-done").textContent = "looking ...";
  const found = await request("POST", "/api/manage/rescan").finally(() => { get("rescan-done").textContent = ""; });
  await refresh();
  get("rescan-done").textContent = `${found.new} new`;
}));
get("study-find").addEventListener("input", () => { page = 0; showStudies(); });
get("study-back").addEventListener("click", () => { page -= 1; showStudies(); });
get("study-next").addEventListener("click", () => { page += 1; showStudies(); });
get("iou").addEventListener("change", () => guarded(showAgreement));
get("refresh").addEventListener("click", () => guarded(refresh));
get("logout").addEventListener("click", logOut);
get("dataset").addEventListener("click", () => guarded(async () => {
  get("dataset-done").textContent = "writing ...";
  try {
    const { folder, counts } = await request("POST", "/api/manage/dataset");
    get("dataset-done").textContent = `Written to ${folder}: ${Object.entries(counts).map(([name, n]) => `${n} ${name.replaceAll("_", " ")}`).join(", ")}`;
  } catch (error) {
    get("dataset-done").textContent = "";
    throw error;
  }
}));
guarded(refresh);
