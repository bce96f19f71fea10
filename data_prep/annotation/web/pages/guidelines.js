// The project's guidelines: `#` begins a heading, `-` an item of a list, anything else a paragraph.
import { make, request } from "/static/request.js";

function elements(text) {
  const made = [];
  for (const line of text.split("\n").map((one) => one.trim()).filter(Boolean)) {
    if (line.startsWith("#")) made.push(make("h2", {}, line.replace(/^#+\s*/, "")));
    else if (line.startsWith("- ")) {
      if (!made.length || made[made.length - 1].tagName !== "UL") made.push(make("ul", {}));
      made[made.length - 1].append(make("li", {}, line.slice(2)));
    } else made.push(make("p", {}, line));
  }
  return made;
}

const { text } = await request("GET", "/api/guidelines");
document.getElementById("text").replaceChildren(...elements(text));
document.body.dataset.ready = "1";
