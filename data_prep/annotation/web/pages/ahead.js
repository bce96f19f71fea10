// The studies next to the open one are requested before they are opened.
import { request } from "/static/request.js";

export class LookAhead {
  constructor() {
    this.found = new Map(); // study key -> promise of its facts
  }

  // the facts of a study, requested now unless they were before
  take(key) {
    const found = this.found.get(key) || request("GET", `/api/studies/${key}`);
    this.found.delete(key);
    return found;
  }

  forget(key) {
    this.found.delete(key);
  }

  // keys: of the studies that may come next, the likeliest first
  ask(keys) {
    for (const other of this.found.keys()) if (!keys.includes(other)) this.found.delete(other);
    for (const key of keys) {
      if (this.found.has(key)) continue;
      const promise = request("GET", `/api/studies/${key}`);
      promise.catch(() => this.found.delete(key));
      this.found.set(key, promise);
    }
    if (keys.length) new Image().src = `/api/studies/${keys[0]}/image`;
  }
}
