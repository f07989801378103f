/**
 * Detects a microphone that delivers nothing: muted at the device, unplugged behind an adapter, or the wrong one.
 * A quiet room is louder than this floor; once there was sound, a longer silence is needed before it counts.
 */
import { SAMPLE_RATE } from "./pcm.js";

const FLOOR = 0.001; // peak: -60 dBFS
const FIRST_SECONDS = 5;
const LATER_SECONDS = 30;

export class SilenceMonitor {
  /** @param {(silent: boolean) => void} onChange */
  constructor(onChange) {
    this.onChange = onChange;
    this.silent = false;
    this.reset();
  }

  /** Another microphone, or it was switched on again. */
  reset() {
    this.hadSound = false;
    this.seconds = 0;
    this.set(false);
  }

  /** @param {Float32Array} samples [S] at 24 kHz, taken while the microphone is on and nothing is played */
  add(samples) {
    if (samples.some((value) => Math.abs(value) > FLOOR)) {
      this.hadSound = true;
      this.seconds = 0;
      this.set(false);
      return;
    }
    this.seconds += samples.length / SAMPLE_RATE;
    if (this.seconds >= (this.hadSound ? LATER_SECONDS : FIRST_SECONDS)) this.set(true);
  }

  set(silent) {
    if (silent === this.silent) return;
    this.silent = silent;
    this.onChange(silent);
  }
}
