import { request } from "/static/request.js";

const field = document.getElementById("token");
const fault = document.getElementById("fault");

async function logIn(token) {
  fault.textContent = "";
  try {
    await request("POST", "/api/login", { token });
    const me = await request("GET", "/api/me");
    location.replace(me.role === "manager" ? "/manage" : "/");
  } catch (error) {
    fault.textContent = error.message;
    field.focus();
  }
}

document.getElementById("form").addEventListener("submit", (event) => {
  event.preventDefault();
  logIn(field.value.trim());
});

// A link carries the token behind `#`, which no browser sends and no log sees; take it out at once.
if (location.hash.length > 8) {
  const token = location.hash.slice(1);
  history.replaceState(null, "", "/login");
  logIn(token);
}
