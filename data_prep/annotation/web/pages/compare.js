// One study: all readings side by side, and their consensus.
import { make, request } from "/static/request.js";

const SVG = "http://www.w3.org/2000/svg";

function picture(study, boxes) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${study.width} ${study.height}`);
  const image = document.createElementNS(SVG, "image");
  for (const [name, value] of Object.entries({ href: `/api/studies/${study.key}/image`, width: study.width, height: study.height })) image.setAttribute(name, value);
  svg.append(image);
  for (const { box_xyxy: [x1, y1, x2, y2], kind } of boxes) {
    const rect = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: kind || "" })) rect.setAttribute(name, value);
    svg.append(rect);
  }
  return svg;
}

function column(study, title, note, boxes, words) {
  return make("figure", {}, picture(study, boxes), make("figcaption", {}, make("b", {}, title), ` ${note}`),
    make("ol", {}, ...words.map((line) => make("li", {}, line))));
}

const label = (code) => (code === "NIL" ? "NIL" : code.replaceAll("/", " / ") || "no finding yet");

export async function compare(place, key) {
  const study = await request("GET", `/api/manage/studies/${key}`);
  const figures = study.readings.map((reading) => column(study, reading.annotator, reading.verdict || "not finished", reading.annotations,
    reading.annotations.map((item) => label(item.code) + (item.assertion === "uncertain" ? " (uncertain)" : ""))));
  const made = study.consensus;
  if (made) {
    const boxes = made.boxes.map((box) => ({ ...box, kind: box.kept ? "" : box.disputed ? "disputed" : "minority" }));
    figures.push(column(study, "Together", `${made.source}: ${made.verdict || "tied"}${made.doubt ? `; in doubt: ${made.doubt.replaceAll("_", " ")}` : ""}`, boxes,
      boxes.map((box) => `${label(box.code)}: ${box.annotators.length} of ${box.n_readers}${box.kept ? "" : box.disputed ? ", disputed" : ", minority"}${box.tied ? ", finding tied" : ""}`)));
  }
  const judge = make("a", { className: "button", href: `/#${key}` }, "Adjudicate this study");
  place.replaceChildren(make("h3", {}, `Study ${key}: ${study.image_id}`), make("p", { className: "row" }, judge), make("div", { className: "readers" }, ...figures));
  place.scrollIntoView({ block: "nearest" });
}
