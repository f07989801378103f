/** Decides which of the microphone's chunks go to the server: hands-free, held to talk, or muted. */
import { SAMPLE_RATE, level, toInt16 } from "./pcm.js";

const PREROLL_CHUNKS = 8; // a quarter of a second: the first syllable comes before the finger
const TAIL_MS = 150; // and the last one after it
const SHORTEST_SECONDS = 0.3;
const SILENCE_AFTER_MUTE_SECONDS = 3; // so that the server detects the end of the turn

export class Listener {
  /**
   * @param {(int16: Int16Array) => boolean} send false: it was not sent
   * @param {import("./recording.js").Recording} recording
   * @param {import("../ui/meter.js").Meter} meter
   */
  constructor(send, recording, meter) {
    Object.assign(this, { send, recording, meter });
    this.handsFree = true;
    this.muted = false;
    this.paused = false; // by the page, while it plays something again
    this.held = false;
    this.sent = 0; // samples, since the page was opened
    this.heldSeconds = 0;
    this.silenceLeft = 0;
    this.preroll = [];
  }

  setMuted(muted) {
    this.muted = muted;
    this.silenceLeft = SILENCE_AFTER_MUTE_SECONDS;
  }

  /** The microphone is gone: the silence by which the server finds the end of what was being said. */
  finish() {
    if (!this.handsFree) return;
    for (let second = 0; second < SILENCE_AFTER_MUTE_SECONDS; second += 1) {
      if (this.send(new Int16Array(SAMPLE_RATE))) this.sent += SAMPLE_RATE;
    }
  }

  setPaused(paused) {
    this.paused = paused;
    this.silenceLeft = SILENCE_AFTER_MUTE_SECONDS;
  }

  capture(samples, start) {
    const silenced = this.muted || this.paused;
    if (!silenced) this.meter.set("user", level(samples));
    const chunk = { int16: toInt16(samples), start };
    const seconds = samples.length / SAMPLE_RATE;
    if (this.handsFree) {
      if (silenced) {
        if (this.silenceLeft > 0 && this.send(chunk.int16.fill(0))) this.sent += samples.length;
        this.silenceLeft -= seconds;
      } else {
        this.pass(chunk);
      }
    } else if (this.held) {
      this.heldSeconds += seconds;
      this.pass(chunk);
    } else {
      this.preroll.push(chunk);
      if (this.preroll.length > PREROLL_CHUNKS) this.preroll.shift();
    }
  }

  pass({ int16, start }) {
    if (!this.send(int16)) return;
    this.recording.add("user", start, int16, this.sent);
    this.sent += int16.length;
  }

  /** Begin a turn that is held. */
  press() {
    this.held = true;
    this.heldSeconds = 0;
    for (const chunk of this.preroll.splice(0)) this.pass(chunk);
  }

  /** End it; resolves to whether it was long enough to be one. */
  async release() {
    await new Promise((resolve) => setTimeout(resolve, TAIL_MS));
    this.held = false;
    return this.heldSeconds >= SHORTEST_SECONDS;
  }
}
