/**
 * Both sides of the conversation on one clock, as a stereo file (the person left, the model right) or a turn at a time.
 * It is the page's only store of sound, and what is older than its limit is dropped from it.
 */
import { SAMPLE_RATE, wavFile } from "./pcm.js";

const LIMIT_SECONDS = 30 * 60; // 170 MB of memory for both sides

export class Recording {
  constructor(limitSeconds = LIMIT_SECONDS) {
    this.limit = limitSeconds * SAMPLE_RATE;
    this.clear();
  }

  clear() {
    this.sides = { user: [], assistant: [] };
    this.dropped = { user: 0, assistant: 0 }; // samples before this position are not kept any more
    this.last = 0;
  }

  get empty() {
    return this.sides.user.length + this.sides.assistant.length === 0;
  }

  /**
   * @param {"user" | "assistant"} side
   * @param {number} start seconds on the playing context's clock
   * @param {Int16Array} samples at 24 kHz
   * @param {number} position samples of that side before these, since the page was opened
   */
  add(side, start, samples, position) {
    this.sides[side].push({ start: Math.max(0, Math.round(start * SAMPLE_RATE)), samples, position });
    this.last = Math.max(this.last, Math.round(start * SAMPLE_RATE) + samples.length);
    const oldest = this.last - this.limit;
    for (const [name, pieces] of Object.entries(this.sides)) {
      while (pieces.length && pieces[0].start < oldest) {
        const { position, samples: gone } = pieces.shift();
        this.dropped[name] = position + gone.length;
      }
    }
  }

  /**
   * The samples of a side between two positions, without the pauses in which nothing was added.
   * @returns {Int16Array | null} null when they are not kept any more
   */
  clip(side, from, to) {
    if (from < this.dropped[side]) return null;
    const parts = this.sides[side]
      .filter(({ position, samples }) => position < to && position + samples.length > from)
      .map(({ position, samples }) => samples.subarray(Math.max(0, from - position), to - position));
    const clip = new Int16Array(parts.reduce((sum, part) => sum + part.length, 0));
    let filled = 0;
    for (const part of parts) {
      clip.set(part, filled);
      filled += part.length;
    }
    return clip.length > 0 ? clip : null;
  }

  toWav() {
    const pieces = [...this.sides.user, ...this.sides.assistant];
    const first = pieces.reduce((earliest, piece) => Math.min(earliest, piece.start), Infinity);
    const stereo = new Int16Array(2 * Math.max(0, this.last - first));
    Object.values(this.sides).forEach((side, channel) => {
      for (const { start, samples } of side) {
        for (let i = 0; i < samples.length; i++) stereo[2 * (start - first + i) + channel] = samples[i];
      }
    });
    return wavFile(stereo, 2);
  }
}
