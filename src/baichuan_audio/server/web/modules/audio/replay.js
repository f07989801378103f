/** Plays one turn's sound again, through the page's volume. */
import { SAMPLE_RATE } from "./pcm.js";

export class Replay {
  /** @param {import("./sound.js").Sound} sound  @param {() => void} onChange it began or ended */
  constructor(sound, onChange) {
    Object.assign(this, { sound, onChange, turn: null, source: null });
  }

  /** @param {Int16Array} samples [S] at 24 kHz */
  async play(turn, samples) {
    this.stop();
    this.turn = turn;
    await this.sound.open();
    if (this.turn !== turn) return; // another one, or none, meanwhile
    const { context, output } = this.sound;
    const buffer = context.createBuffer(1, samples.length, SAMPLE_RATE);
    buffer.getChannelData(0).set(Float32Array.from(samples, (value) => value / 32768));
    const source = new AudioBufferSourceNode(context, { buffer });
    source.onended = () => source === this.source && this.stop();
    source.connect(output);
    source.start();
    this.source = source;
    this.onChange();
  }

  stop() {
    const { turn, source } = this;
    this.turn = this.source = null;
    source?.stop();
    if (turn) this.onChange();
  }
}
