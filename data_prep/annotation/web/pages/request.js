// Requests to the application; a header distinguishes them from those of other pages.
export class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

let reader = null;

// Every further request is refused when another person has logged in in another window.
export function actFor(name) {
  reader = encodeURIComponent(name);
}

export async function request(method, path, body) {
  const options = { method, headers: { "x-annotate": "1" }, credentials: "same-origin" };
  if (reader !== null) options.headers["x-reader"] = reader;
  if (method !== "GET") {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body === undefined ? {} : body);
  }
  const answer = await fetch(path, options);
  const value = await answer.json().catch(() => ({}));
  // the desk holds changes that are not saved yet: it asks for the token itself
  const desk = document.body.classList.contains("desk") && document.body.dataset.ready === "1";
  if (answer.status === 401 && location.pathname !== "/login" && !desk) location.assign("/login");
  if (!answer.ok) throw new Refusal(answer.status, value.error || value.detail || `Error ${answer.status}`);
  return value;
}

// An element with properties and children; text is never markup.
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// A button that runs something; the study's own keys and rows do not see its clicks.
export function button(text, run, title = "", className = "") {
  const found = make("button", { type: "button", title, className }, text);
  found.addEventListener("click", (event) => {
    event.stopPropagation();
    run();
  });
  return found;
}

// Send a file as it is.
export async function upload(path, file) {
  const headers = { "x-annotate": "1", "content-type": "application/octet-stream" };
  const answer = await fetch(path, { method: "POST", headers, body: file, credentials: "same-origin" });
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(answer.status, value.error || value.detail || `Error ${answer.status}`);
  return value;
}

export async function logOut() {
  await request("POST", "/api/logout").catch(() => {});
  location.assign("/login");
}
