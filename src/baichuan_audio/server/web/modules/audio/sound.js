/** Audio output: the audio context, the player's worklet and the volume. */
import { SAMPLE_RATE } from "./pcm.js";

const FADE_SECONDS = 0.02; // a volume that jumps clicks

export class Sound {
  /** @param {(report: object) => void} onReport what worklets/player.js posts */
  constructor(onReport) {
    this.onReport = onReport;
    this.volume = 1;
    this.flushes = new Map();
    this.flushCount = 0;
  }

  /** Between conversations nothing needs to run. */
  rest() {
    this.context?.suspend();
  }

  /** Must be called from a click or a key: browsers allow sound only then. */
  async open() {
    if (!this.context) {
      if (navigator.audioSession) navigator.audioSession.type = "play-and-record";
      this.context = new AudioContext({ sampleRate: SAMPLE_RATE, latencyHint: "interactive" });
      this.output = new GainNode(this.context, { gain: this.volume });
      this.output.connect(this.context.destination);
      this.playerReady = this.context.audioWorklet.addModule("worklets/player.js").then(() => {
        this.player = new AudioWorkletNode(this.context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
        this.player.port.onmessage = ({ data }) => this.receive(data);
        this.player.connect(this.output);
      });
    }
    await Promise.all([this.context.resume(), this.playerReady]);
  }

  /** @param {number} volume in [0, 1] of a slider; loudness is perceived by its ratio, so the gain is its square */
  setVolume(volume) {
    this.volume = volume ** 2;
    this.output?.gain.setTargetAtTime(this.volume, this.context.currentTime, FADE_SECONDS);
  }

  /** Seconds between a sample's leaving the worklet and its leaving the loudspeaker. */
  get latency() {
    const { baseLatency = 0, outputLatency = 0 } = this.context ?? {};
    return Math.max(baseLatency, outputLatency);
  }

  push(item, samples) {
    this.player.port.postMessage({ type: "push", item, samples }, [samples.buffer]);
  }

  end(item) {
    this.player.port.postMessage({ type: "end", item });
  }

  /** Stop now; resolves to {item, position}: the item that was playing (or null) and its played samples. */
  flush() {
    const nothing = { item: null, position: 0 };
    if (!this.player) return Promise.resolve(nothing);
    const id = ++this.flushCount;
    this.player.port.postMessage({ type: "flush", id });
    if (this.context.state !== "running") return Promise.resolve(nothing); // a suspended worklet does not reply
    return new Promise((resolve) => this.flushes.set(id, resolve));
  }

  receive(report) {
    if (report.type === "flushed") {
      this.flushes.get(report.id)?.(report);
      this.flushes.delete(report.id);
    } else {
      this.onReport(report);
    }
  }
}
