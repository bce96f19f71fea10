// Problems with saving, and the reader's options.
import { button, make, request } from "/static/request.js";

// desk: {me, study, message, lost, forget(item), take(key)}; queue: the ChangeQueue
export function showTrouble(place, queue, desk) {
  const about = `${queue.blocked} ${desk.lost.map((item) => item.id)} ${desk.message}`;
  if (place.dataset.about === about) return;
  place.dataset.about = about;
  const parts = [];
  if (queue.blocked === "login") parts.push(logInRow(queue, desk.me));
  if (queue.blocked === "conflict") {
    const { key } = queue.waiting[0];
    parts.push(make("p", {}, `Study ${desk.number(key)} was changed in another window. Your changes here are not saved.`),
      button("Keep mine", () => queue.keepMine().catch(() => {}), "Save this window's boxes over the others; Undo brings them back", "primary"),
      button("Take the other", () => { queue.drop(key); queue.resume(); desk.take(key); }));
  }
  for (const item of desk.lost) {
    parts.push(make("p", {}, `Study ${desk.number(item.key)} is not saved: ${item.message}.`),
      item.reading ? button("Keep a copy", () => download(item)) : null,
      button("Discard", () => desk.forget(item)));
  }
  if (desk.message) parts.push(make("p", {}, desk.message));
  place.replaceChildren(...parts.filter(Boolean));
  place.hidden = !parts.length;
}

function logInRow(queue, me) {
  const field = make("input", { type: "password", placeholder: "token", autocomplete: "off" });
  field.setAttribute("aria-label", "Token");
  const note = make("span", { className: "hint" });
  const form = make("form", {}, make("p", {}, `Your session has ended, or another person has logged in. Your changes wait here; log in as ${me.name} and they are saved.`), field,
    make("button", { type: "submit", className: "primary" }, "Log in"), note);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await request("POST", "/api/login", { token: field.value.trim().split("#").pop() });
      await request("GET", "/api/me");
      queue.resume();
    } catch (error) {
      note.textContent = `${error.message}. These changes are ${me.name}'s.`;
    }
  });
  return form;
}

function download(item) {
  const link = make("a", { href: URL.createObjectURL(new Blob([JSON.stringify(item.reading, null, 1)], { type: "application/json" })), download: `study_${item.key}_not_saved.json` });
  link.click();
}
