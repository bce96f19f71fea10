// Seconds of work: idle time and time in a hidden window are not counted.
const IDLE_MS = 60000;
const MOST_S = 300; // of one change; the server accepts no more
const now = () => performance.now(); // the clock of the day may be set back

export class WorkClock {
  constructor() {
    this.touched = now();
    this.counted = now();
    this.activeMs = 0;
    setInterval(() => this.tick(), 1000);
  }

  touch() {
    this.touched = now();
  }

  tick() {
    const time = now();
    if (!document.hidden && time - this.touched < IDLE_MS) this.activeMs += time - this.counted;
    this.counted = time;
  }

  // the seconds since they were last taken
  take() {
    this.tick();
    const seconds = Math.max(0, Math.min(this.activeMs / 1000, MOST_S));
    this.activeMs = 0;
    return seconds;
  }
}
