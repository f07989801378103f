/** Response times and playback gaps: a sentence or two, and the numbers in a folded list below. */
import { language, t } from "./i18n.js";

export class Metrics {
  /** @param {(id: string) => HTMLElement} element */
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.delays = [];
    this.numbers = { buffered: null, gaps: 0, played: null };
    this.render();
  }

  /** @param {number} seconds from the end of a question to the first sound of its reply */
  addDelay(seconds) {
    this.delays.push(seconds);
    this.render();
  }

  addGap() {
    this.numbers.gaps += 1;
    this.render();
  }

  /** @param {number} played seconds more  @param {number} buffered seconds that wait to be played */
  addPlayed(played, buffered) {
    this.numbers.played = (this.numbers.played ?? 0) + played;
    this.setBuffered(buffered);
  }

  setBuffered(seconds) {
    this.numbers.buffered = seconds;
    this.render();
  }

  render() {
    const { buffered, gaps, played } = this.numbers;
    const seconds = (value) => (value === null ? "–" : t("seconds", { n: value.toFixed(2) }));
    this.write("firstAudio", seconds(this.delays.at(-1) ?? null));
    this.write("median", seconds(median(this.delays)));
    this.write("buffered", seconds(buffered));
    this.write("gaps", String(gaps));
    this.write("played", seconds(played));
    const speed = this.delays.length > 1 ? delayText("metrics.typical", median(this.delays)) : this.lastDelay();
    const flow = gaps === 0 ? t("metrics.noGaps") : t(gaps === 1 ? "metrics.oneGap" : "metrics.gaps", { n: gaps });
    this.write("metrics-text", played === null ? t("metrics.none") : [speed, flow].filter(Boolean).join(language() === "zh" ? "" : " "));
  }

  lastDelay() {
    return this.delays.length === 1 ? delayText("metrics.last", this.delays[0]) : "";
  }

  write(id, text) {
    const element = this.element(id);
    if (element.textContent !== text) element.textContent = text;
  }
}

/** A text about a delay, rounded to tenths of a second, 0.1 s at least. */
export function delayText(key, seconds) {
  const tenths = Math.max(1, Math.round(seconds * 10));
  return t(key, { n: t("seconds", { n: (tenths / 10).toFixed(1) }) });
}

function median(values) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
