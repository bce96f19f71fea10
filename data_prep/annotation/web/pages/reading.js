// Readings and boxes as data.

// A box with a new id; more: further fields.
export function newBox(box, more = {}) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => (byte % 36).toString(36)).join("");
  return { annotation_id: `b${id}`, box_xyxy: box, code: "", coarse: "", assertion: "present", origin: "drawn", mention: null, ...more };
}

// A suggestion as a box; one of a model has no finding yet, but its group.
export function acceptedBox({ box_xyxy, code, assertion, origin }, group) {
  return newBox(box_xyxy, { code, coarse: code ? "" : group, assertion: assertion || "present", origin });
}

// The verdict that boxes imply; opacity: the headings of lung opacities.
export function impliedVerdict(annotations, opacity) {
  if (annotations.some(({ code }) => opacity.includes(code.split("/")[0]))) return "opacity";
  return annotations.length ? "abnormal" : "";
}

// a copy of a reading without the fields that the server adds
export function readingOf({ annotations, rejected, verdict, comment, mentions }) {
  const boxes = annotations.map(({ annotation_id, box_xyxy, code, coarse, assertion, origin, mention }) => ({ annotation_id, box_xyxy, code, coarse, assertion, origin, mention }));
  return { annotations: boxes, rejected: [...rejected], verdict, comment, mentions: mentions.map((link) => ({ ...link })) };
}

// A box moved, or with its right and lower edge moved, inside an image of {width, height}.
export function movedBox([x1, y1, x2, y2], x, y, { width, height }, resize) {
  if (resize) return [x1, y1, Math.min(width, Math.max(x1 + 4, x2 + x)), Math.min(height, Math.max(y1 + 4, y2 + y))];
  const dx = Math.min(width - x2, Math.max(-x1, x)), dy = Math.min(height - y2, Math.max(-y1, y));
  return [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
}

// A box of a quarter of the image's sides around a point.
export function boxAround([x, y], { width, height }) {
  const w = width / 8, h = height / 8;
  return [Math.max(0, x - w), Math.max(0, y - h), Math.min(width, x + w), Math.min(height, y + h)];
}
