// Changes on their way to the server. Each has an id of its own, belongs to its study, is sent in
// order and repeated until the server has confirmed it; only then it counts as saved.
import { Refusal, request } from "/static/request.js";

const RETRY_MS = 2000;

export class ChangeQueue {
  // on: {state(), confirmed(change, state), refused(changes, message), answers()}; the last when the
  // application answers again after it did not
  constructor(on) {
    this.on = on;
    this.waiting = []; // {id, key, kind, reading, seconds, edits, sent}
    this.revisions = new Map(); // study key -> revision that the server holds
    this.blocked = ""; // "", "login" or "conflict"
    this.fault = "";
    this.running = false;
    this.idle = [];
  }

  // number of changes that the server has not confirmed, without those of working time alone
  get unsaved() {
    return this.waiting.reduce((sum, change) => sum + (change.kind === "time" ? 0 : 1 + change.edits.length), 0);
  }

  // as text; refused: number of changes that the server refuses for good
  status(refused) {
    if (this.fault || this.blocked) return this.fault || "not saved";
    if (this.unsaved) return "saving";
    return refused ? `${refused} change${refused > 1 ? "s" : ""} not saved` : "saved";
  }

  has(key) {
    return this.waiting.some((change) => change.key === key && change.kind !== "time");
  }

  // the last undo or redo of a study that is not confirmed yet: its outcome is not known here
  step(key) {
    return this.waiting.findLast((change) => change.key === key && (change.kind === "undo" || change.kind === "redo"));
  }

  save(key, reading, seconds) {
    const last = this.waiting.findLast((change) => change.key === key);
    if (last && last.kind === "save" && !last.sent) {
      Object.assign(last, { reading, seconds: Math.min(300, last.seconds + seconds) });
      return this.run();
    }
    return this.push({ key, kind: "save", reading, seconds });
  }

  push(change) {
    this.waiting.push({ id: crypto.randomUUID ? crypto.randomUUID() : `${performance.now()}-${Math.random()}`.replaceAll(".", "-"), edits: [], seconds: 0, sent: false, ...change });
    return this.run();
  }

  // resolves when nothing of the study is waiting any more
  settled(key) {
    if (!this.has(key)) return Promise.resolve();
    return new Promise((resolve) => this.idle.push({ key, resolve }));
  }

  run() {
    this.on.state();
    if (!this.running && !this.blocked) {
      this.running = true;
      this.work().finally(() => {
        this.running = false;
        this.on.state();
      });
    }
  }

  async work() {
    while (this.waiting.length && !this.blocked) {
      const change = this.waiting[0];
      change.sent = true;
      try {
        const state = await this.send(change);
        const back = this.fault;
        this.fault = "";
        this.confirm(change, state);
        if (back) this.on.answers();
      } catch (error) {
        if (!(error instanceof Refusal) || error.status >= 500 || error.status === 408 || error.status === 429) {
          this.fault = error instanceof Refusal ? `Not saved: ${error.message}. Trying again.` : "Not saved: the application does not answer. Trying again.";
          this.on.state();
          await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        } else if (error.status === 401) this.block("login");
        else if (change.kind === "time") this.waiting.shift();
        else if (error.status === 409) this.block("conflict");
        else this.refuse(change.key, error.message);
      }
      this.on.state();
    }
  }

  send(change) {
    const path = `/api/studies/${change.key}`;
    if (change.kind === "time") return request("POST", `${path}/time`, { step_s: change.seconds });
    if (change.kind !== "save") return request("POST", `${path}/${change.kind}`, { change_id: change.id });
    const body = { ...change.reading, base_revision: this.revisions.get(change.key) || 0, change_id: change.id, step_s: change.seconds };
    return request("PUT", `${path}/reading`, body);
  }

  confirm(change, state) {
    this.waiting.shift();
    if (change.kind !== "time") {
      this.revisions.set(change.key, state.confirmed);
      this.on.confirmed(change, state);
    }
    this.wake();
  }

  wake() {
    this.idle = this.idle.filter(({ key, resolve }) => {
      if (this.has(key)) return true;
      resolve();
      return false;
    });
  }

  block(reason) {
    this.blocked = reason;
  }

  resume() {
    this.blocked = "";
    this.run();
  }

  // the reader's own state is kept and overwrites that of the other window
  async keepMine() {
    const { key } = this.waiting[0];
    const state = await request("GET", `/api/studies/${key}`);
    this.revisions.set(key, state.revision);
    this.resume();
  }

  drop(key) {
    const dropped = this.waiting.filter((change) => change.key === key);
    this.waiting = this.waiting.filter((change) => change.key !== key);
    this.wake();
    return dropped;
  }

  // changes that the server refuses for good: shown as not saved, and the others go on
  refuse(key, message) {
    this.on.refused(this.drop(key).filter((change) => change.kind !== "time"), message);
  }
}
