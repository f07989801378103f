/** How long a conversation has gone on: runs while it is on, goes on where it stopped. */
export class Stopwatch {
  constructor() {
    this.reset();
  }

  reset() {
    this.before = 0; // milliseconds of earlier runs
    this.since = null;
  }

  start() {
    this.since ??= performance.now();
  }

  stop() {
    this.before = this.milliseconds;
    this.since = null;
  }

  get milliseconds() {
    return this.before + (this.since === null ? 0 : performance.now() - this.since);
  }
}

/** 0:42, 12:05, 1:00:00 */
export function clockText(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}
