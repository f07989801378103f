/** Both voices over the last seconds: the person's bars grow up from the line, the model's down. */

const STEP_MS = 60;

export class Meter {
  /** @param {HTMLCanvasElement} canvas  @param {{user: HTMLElement, assistant: HTMLElement}} colours of their text */
  constructor(canvas, colours) {
    Object.assign(this, { canvas, colours });
    this.now = { user: 0, assistant: 0 };
    this.history = [];
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.timer = null;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  start() {
    this.timer ??= setInterval(() => this.step(), STEP_MS);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.history = [];
    this.now = { user: 0, assistant: 0 };
    this.draw();
  }

  /** @param {"user" | "assistant"} side  @param {number} level in [0, 1] */
  set(side, level) {
    this.now[side] = Math.max(this.now[side], level);
  }

  step() {
    this.history.push({ ...this.now });
    this.now.user *= 0.5;
    this.now.assistant *= 0.5;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const pitch = 6;
    const columns = Math.max(1, Math.floor(width / pitch));
    if (this.history.length > columns) this.history.splice(0, this.history.length - columns);
    // Without motion only the newest moment is drawn, in every column.
    const shown = this.still.matches ? Array(columns).fill(this.history.at(-1)) : this.history;
    const middle = height / 2;
    for (const [side, direction] of [["user", -1], ["assistant", 1]]) {
      pen.fillStyle = getComputedStyle(this.colours[side]).color;
      for (let column = 0; column < columns; column++) {
        const moment = shown[shown.length - columns + column];
        const length = 1.5 + (moment?.[side] ?? 0) * (middle - 4);
        pen.globalAlpha = moment ? 0.25 + 0.75 * Math.min(1, (column / columns) * 1.6) : 0.18;
        pen.beginPath();
        pen.roundRect(column * pitch, direction < 0 ? middle - 1 - length : middle + 1, 3, length, 1.5);
        pen.fill();
      }
    }
  }
}
