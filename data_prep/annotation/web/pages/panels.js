// The panels beside the image: boxes and suggestions, comment, how to finish.
import { button, make } from "/static/request.js";

export const VERDICTS = { opacity: "lung opacity", abnormal: "abnormal, no opacity", normal: "normal", unusable: "cannot be judged" };

function source(origin) {
  if (origin.startsWith("reader:")) return origin.split(":")[1];
  return origin.startsWith("model:") ? "model" : origin === "imported" ? "imported" : "";
}

function boxLabel(item) {
  if (!item.code) return item.coarse ? `${item.coarse} ?` : "?";
  return (item.code === "NIL" ? "NIL" : item.code.split("/")[0]) + (item.assertion === "uncertain" ? " ?" : "");
}

// Suggestions and boxes as the viewer draws them.
export function viewerItems(suggestions, annotations, chosen) {
  return [
    ...suggestions.map((item) => ({ id: item.origin, box: item.box_xyxy, kind: "suggested", chosen: item.origin === chosen, label: item.score === null ? `${source(item.origin)}: ${item.code}` : `model ${Math.round(item.score * 100)} %` })),
    ...annotations.map((item) => ({ id: item.annotation_id, box: item.box_xyxy, kind: "own", chosen: item.annotation_id === chosen, label: boxLabel(item) })),
  ];
}

// on: {choose(id), accept(suggestion), reject(suggestion)}
export function showFindings(place, { annotations, suggestions, chosen }, on) {
  const rows = annotations.map((item, i) => {
    const row = make("li", { className: item.annotation_id === chosen ? "chosen" : "", tabIndex: 0 }, make("b", {}, String(i + 1)),
      make("span", { className: item.code ? "label" : "label open" }, item.code ? item.code.replaceAll("/", " / ") : "finding not chosen yet"),
      item.assertion === "uncertain" ? make("small", {}, "uncertain") : null, source(item.origin) ? make("small", {}, source(item.origin)) : null);
    row.addEventListener("click", () => on.choose(item.annotation_id));
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.stopPropagation(); on.choose(item.annotation_id); } });
    return row;
  });
  const offered = suggestions.map((item) => {
    const row = make("li", { className: item.origin === chosen ? "suggestion chosen" : "suggestion" },
      make("span", { className: "label" }, item.score === null ? `${source(item.origin)}: ${item.code}${item.assertion === "uncertain" ? " ?" : ""}` : `Model, ${Math.round(item.score * 100)} %`),
      button("Accept", () => on.accept(item), "Accept (A)"), button("Reject", () => on.reject(item), "Reject (R)"));
    row.addEventListener("click", () => on.choose(item.origin));
    return row;
  });
  place.replaceChildren(make("h2", {}, annotations.length ? `Boxes (${annotations.length})` : "No box yet"),
    make("ul", {}, ...rows, ...offered),
    ...(rows.length || offered.length ? [] : [make("p", { className: "hint" }, "Drag over the image to draw one, or press D.")]));
}

// on: {chooseOpen(), finish(verdict), reopen(), next()}
export function showFinish(place, { verdict, implied, untyped, waiting }, on) {
  const note = waiting ? [make("p", { className: "hint" }, `${waiting} suggestion${waiting > 1 ? "s" : ""} neither accepted nor rejected`)] : [];
  if (verdict) {
    return place.replaceChildren(make("p", { className: "finished" }, `Finished: ${VERDICTS[verdict]}`),
      make("div", { className: "row" }, button("Reopen", on.reopen), button("Next study", on.next, "Next study (Enter)", "primary")));
  }
  if (implied) {
    return place.replaceChildren(...note, untyped
      ? button(`${untyped} box${untyped > 1 ? "es" : ""} without a finding`, on.chooseOpen, "Go to it (Enter)", "wide")
      : button(`Finish: ${VERDICTS[implied]}`, () => on.finish(implied), "Finish (Enter)", "primary wide"));
  }
  return place.replaceChildren(...note, make("p", { className: "hint" }, "Nothing to box? Finish as"), make("div", { className: "row" },
    button("Normal", () => on.finish("normal"), "Normal (N)", "primary"), button("Abnormal, no box", () => on.finish("abnormal"), "Abnormal (B)"),
    button("Cannot be judged", () => on.finish("unusable"), "Cannot be judged (C)")));
}

export function showComment(field, text) {
  if (document.activeElement !== field && field.value !== text) field.value = text;
}
