// Actions of the toolbar's buttons, of keys and of the pointer.
import { logOut } from "/static/request.js";
import { PRESETS } from "/static/viewer.js";

const get = (id) => document.getElementById(id);
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const WHILE_OPENING = /^[jklihfvz?]$/; // keys that change no reading, allowed while a study is loading
const LINK_KEYS = { y: "present", u: "uncertain", x: "absent", e: "prior" };

function toggle(id, name, off) {
  const on = document.body.classList.toggle(name);
  get(id).setAttribute("aria-pressed", String(off ? !on : on));
}

// desk: the interface of annotate.js; see its `desk`
export function listen(desk) {
  const { viewer, typing, report, queue } = desk;

  function setTool(name) {
    viewer.setTool(viewer.tool === name ? "draw" : name);
    get("window-tool").setAttribute("aria-pressed", String(viewer.tool === "window"));
    get("ruler-tool").setAttribute("aria-pressed", String(viewer.tool === "ruler"));
  }

  function preset(at) {
    const [, center, width] = PRESETS[at];
    get("preset").selectedIndex = at;
    viewer.setWindow(center, width);
  }

  const actions = {
    invert: () => toggle("invert", "inverted"),
    "window-tool": () => setTool("window"),
    "ruler-tool": () => setTool("ruler"),
    lens: () => get("lens-tool").setAttribute("aria-pressed", String(viewer.lens.toggle())),
    boxes: () => toggle("boxes", "no-boxes", true),
    fit: () => {
      viewer.reset();
      get("preset").selectedIndex = 0;
      if (document.body.classList.contains("inverted")) toggle("invert", "inverted");
      viewer.draw();
    },
    keys: () => {
      get("help").hidden = !get("help").hidden;
      get("keys").setAttribute("aria-expanded", String(!get("help").hidden));
    },
    undo: () => desk.step("undo"),
    redo: () => desk.step("redo"),
    logout: async () => {
      await desk.settled();
      logOut();
    },
    previous: () => desk.go(-1),
    next: () => desk.go(1),
    prior: () => desk.nextPrior(),
    "list-toggle": () => toggle("list-toggle", "no-list", true),
  };
  actions["lens-tool"] = actions.lens;
  for (const [id, action] of Object.entries(actions)) {
    if (!get(id) || id === "lens") continue;
    get(id).addEventListener("click", () => {
      if (desk.study || id === "logout") action();
      get(id).blur(); // so that Enter and digits go to the study again
    });
  }
  get("preset").replaceChildren(...PRESETS.map(([name]) => new Option(name)));
  get("preset").addEventListener("change", (event) => {
    preset(event.target.selectedIndex);
    event.target.blur();
  });

  const keys = {
    j: () => desk.go(1), k: () => desk.go(-1), i: actions.invert, h: actions.boxes, f: actions.fit, l: actions["list-toggle"], "?": actions.keys,
    w: actions["window-tool"], m: actions["ruler-tool"], z: actions.lens, u: desk.toggleUncertain, Delete: desk.remove, d: desk.drawInTheMiddle,
    v: () => preset((get("preset").selectedIndex + 1) % PRESETS.length),
    g: () => desk.cycleLinks(1), G: () => desk.cycleLinks(-1), s: () => report.selectWord(1), S: () => report.selectWord(-1), p: actions.prior,
    n: () => desk.finishEmpty("normal"), b: () => desk.finishEmpty("abnormal"), c: () => desk.finishEmpty("unusable"),
    a: desk.acceptChosen, r: desk.rejectChosen,
    "+": () => viewer.zoomAt(1.25), "=": () => viewer.zoomAt(1.25), "-": () => viewer.zoomAt(0.8),
    "[": () => viewer.windowBy(0.9, 0), "]": () => viewer.windowBy(1 / 0.9, 0), ",": () => viewer.windowBy(1, 0.03), ".": () => viewer.windowBy(1, -0.03),
    "/": () => { const field = get("search"); if (field) field.focus(); },
    Backspace: () => { if (desk.isTyping()) typing.back(); },
    Escape: () => { get("help").hidden = true; report.clearSelection(); desk.choose(null); },
    Enter: desk.enter,
  };

  // an arrow moves the chosen box, else the ruler, else the image
  function arrow(event, name) {
    const [x, y] = ARROWS[name].map((side) => side * (event.shiftKey ? 10 : 1));
    const resize = event.ctrlKey || event.metaKey;
    if (desk.box()) desk.moveBox(x, y, resize);
    else if (viewer.tool === "ruler") viewer.moveRuler(x, y, !resize);
    else viewer.panBy(-40 * Math.sign(x), -40 * Math.sign(y));
  }

  function actionOf(event) {
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (report.selectedByKeys()) {
      if (event.shiftKey && ARROWS[name] && ARROWS[name][0]) return () => report.extendSelection(ARROWS[name][0]);
      if (name === "Enter") return () => report.linkSelection();
    }
    if (ARROWS[name]) return () => arrow(event, name);
    if (event.ctrlKey || event.metaKey) {
      if (name === "z") return () => desk.step(event.shiftKey ? "redo" : "undo");
      return name === "y" ? () => desk.step("redo") : undefined;
    }
    if (name === "Enter" || name === " ") {
      if (event.target.tagName === "MARK") return () => event.target.click();
      if (/^(BUTTON|A|SUMMARY)$/.test(event.target.tagName)) return undefined;
    }
    if (event.shiftKey && /^Digit[1-6]$/.test(event.code) && desk.isTyping()) return () => typing.reportDigit(Number(event.code.slice(5)));
    if (/^[0-9]$/.test(name) && desk.isTyping()) return () => typing.digit(Number(name));
    if (name === "Tab") {
      const by = event.shiftKey ? -1 : 1;
      return document.activeElement === get("pane") && desk.canCycle(by) ? () => desk.cycle(by) : undefined;
    }
    if (LINK_KEYS[name] && desk.link()) return () => desk.reviseLink({ assertion: LINK_KEYS[name] });
    return keys[event.shiftKey && keys[event.key] ? event.key : name];
  }

  document.addEventListener("keydown", (event) => {
    desk.touched();
    if (!desk.study || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.altKey) return;
    const action = actionOf(event);
    if (!action) return;
    if (desk.isOpening() && !WHILE_OPENING.test(event.key)) return event.preventDefault();
    event.preventDefault();
    action();
  });
  get("comment-text").addEventListener("change", (event) => desk.comment(event.target.value));
  for (const name of ["pointerdown", "pointermove", "wheel"]) document.addEventListener(name, () => desk.touched(), { passive: true });
  window.addEventListener("beforeunload", (event) => {
    if (desk.study) desk.comment(get("comment-text").value);
    if (queue.unsaved || desk.lost.length) event.preventDefault();
  });
}
