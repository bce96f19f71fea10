// Shows the previous radiograph of the patient, at the next press the one before it, then none.
const get = (id) => document.getElementById(id);

export class PriorFilm {
  constructor() {
    this.at = -1;
  }

  // study: {key, priors: [{key, view, days}]}
  open(study) {
    this.study = study;
    this.at = -1;
    this.show();
  }

  next() {
    this.at = this.at + 1 < this.study.priors.length ? this.at + 1 : -1;
    this.show();
  }

  show() {
    const { priors, key } = this.study;
    const found = priors[this.at];
    get("prior").hidden = !priors.length;
    get("prior").setAttribute("aria-pressed", String(Boolean(found)));
    get("prior-pane").hidden = !found;
    if (!found) return get("prior-image").removeAttribute("src");
    get("prior-image").src = `/api/studies/${key}/prior/${found.key}`;
    const when = found.days === null ? "" : `, ${found.days} day${found.days === 1 ? "" : "s"} earlier`;
    get("prior-note").textContent = `Prior ${this.at + 1} of ${priors.length}${found.view ? `, ${found.view}` : ""}${when}`;
  }
}
