/** Both sides of the conversation on one clock, as a stereo file: the person left, the model right. */
import { SAMPLE_RATE, wavFile } from "./pcm.js";

const LIMIT_SECONDS = 30 * 60; // 170 MB of memory for both sides

export class Recording {
  constructor() {
    this.clear();
  }

  clear() {
    this.sides = { user: [], assistant: [] };
    this.last = 0;
  }

  get empty() {
    return this.sides.user.length + this.sides.assistant.length === 0;
  }

  /**
   * @param {"user" | "assistant"} side
   * @param {number} start seconds on the playing context's clock
   * @param {Int16Array} samples at 24 kHz
   */
  add(side, start, samples) {
    this.sides[side].push({ start: Math.max(0, Math.round(start * SAMPLE_RATE)), samples });
    this.last = Math.max(this.last, Math.round(start * SAMPLE_RATE) + samples.length);
    const oldest = this.last - LIMIT_SECONDS * SAMPLE_RATE;
    for (const pieces of Object.values(this.sides)) {
      while (pieces.length && pieces[0].start < oldest) pieces.shift();
    }
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
