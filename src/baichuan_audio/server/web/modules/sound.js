/** The two audio worklets and the browser objects around them. */
import { SAMPLE_RATE } from "./pcm.js";

// A browser's noise suppression is made for ears: it takes away what tells "two" from "five" to an encoder (LOG.md).
const PREFERENCES = { echoCancellation: true, noiseSuppression: false, autoGainControl: true, channelCount: 1 };

export class Sound {
  /**
   * @param {(samples: Float32Array, startTime: number) => void} onCapture 24 kHz, seconds on the playing clock
   * @param {(report: object) => void} onReport what worklets/player.js posts
   * @param {() => void} onMicrophoneLost the device went away or the permission was taken back
   */
  constructor(onCapture, onReport, onMicrophoneLost) {
    Object.assign(this, { onCapture, onReport, onMicrophoneLost });
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
      this.playerReady = this.context.audioWorklet.addModule("worklets/player.js").then(() => {
        this.player = new AudioWorkletNode(this.context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
        this.player.port.onmessage = ({ data }) => this.receive(data);
        this.player.connect(this.context.destination);
      });
    }
    await Promise.all([this.context.resume(), this.playerReady]);
  }

  /**
   * All who want it while the browser asks for permission share one answer; after `closeMicrophone` it opens nothing.
   * Raises the DOMException of getUserMedia, or an Error named "InsecureContext" where there is none.
   */
  openMicrophone() {
    if (!this.opening) {
      const opening = this.askForMicrophone(() => opening === this.opening);
      opening.catch(() => opening === this.opening && this.closeMicrophone());
      this.opening = opening;
    }
    return this.opening;
  }

  async askForMicrophone(wanted) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw Object.assign(new Error("no getUserMedia"), { name: "InsecureContext" });
    }
    const stream = await navigator.mediaDevices.getUserMedia({ audio: PREFERENCES });
    stream.getAudioTracks()[0].addEventListener("ended", () => {
      this.closeMicrophone();
      this.onMicrophoneLost();
    });
    const microphone = { stream };
    try {
      if (wanted()) Object.assign(microphone, await this.connectMicrophone(stream));
    } finally {
      if (wanted() && microphone.node) this.microphone = microphone;
      else this.release(microphone);
    }
  }

  async connectMicrophone(stream) {
    let context = this.context;
    let source;
    try {
      source = context.createMediaStreamSource(stream);
    } catch {
      // Not every browser resamples a microphone for a 24 kHz context: take one at the device's rate.
      context = new AudioContext({ latencyHint: "interactive" });
      await context.resume();
      source = context.createMediaStreamSource(stream);
    }
    await context.audioWorklet.addModule("worklets/capture.js");
    const node = new AudioWorkletNode(context, "capture", { outputChannelCount: [1] });
    const shift = this.context.currentTime - context.currentTime;
    node.port.onmessage = ({ data }) => {
      this.onCapture(data.samples, data.endTime + shift - data.samples.length / SAMPLE_RATE);
    };
    source.connect(node).connect(context.destination); // it puts out silence; unconnected nodes may not run
    return { context, source, node };
  }

  setMuted(muted) {
    for (const track of this.microphone?.stream.getAudioTracks() ?? []) track.enabled = !muted;
  }

  closeMicrophone() {
    this.opening = null;
    if (this.microphone) this.release(this.microphone);
    this.microphone = null;
  }

  /** Only the stream is there if it was never connected. */
  release({ stream, source, node, context = this.context }) {
    if (node) node.port.onmessage = null;
    source?.disconnect();
    node?.disconnect();
    for (const track of stream.getTracks()) track.stop();
    if (context !== this.context) context.close();
  }

  /** Seconds between a sample's leaving the worklet and its being heard. */
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
    if (this.context.state !== "running") return Promise.resolve(nothing); // a halted worklet does not answer
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
