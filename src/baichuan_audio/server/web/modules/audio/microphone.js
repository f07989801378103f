/** The microphone: which one, its permission, its stream and the worklet that cuts it into 24 kHz chunks. */
import { SAMPLE_RATE } from "./pcm.js";

// Noise suppression is off: it is tuned for human listeners, and without it the encoder tells "two" from "five" better.
const PREFERENCES = { echoCancellation: true, noiseSuppression: false, autoGainControl: true, channelCount: 1 };
const ABSENT = ["NotFoundError", "OverconstrainedError"]; // what a browser says of a device that is not there
const NO_DEVICES = ["", "default", "communications"]; // entries of Chromium's list that stand for another one

export class Microphone {
  /**
   * @param {import("./sound.js").Sound} sound whose context and clock it uses
   * @param {object} handlers onCapture(samples [S] at 24 kHz, start in seconds on the playing clock); onLost(): the
   *   device was unplugged or the permission was taken back; onDevices(): another device was plugged in or out
   */
  constructor(sound, handlers) {
    Object.assign(this, { sound, handlers, opening: null, current: null });
    navigator.mediaDevices?.addEventListener?.("devicechange", () => handlers.onDevices());
  }

  /** Whether there is one that is open. */
  get active() {
    return this.current !== null;
  }

  get track() {
    return this.current?.stream.getAudioTracks()[0];
  }

  /** The device's name as the system reports it, "" when it does not. */
  get label() {
    return this.track?.label ?? "";
  }

  get deviceId() {
    return this.track?.getSettings().deviceId ?? "";
  }

  /** false where the browser says that it cannot take the loudspeaker's sound out of the microphone's. */
  get echoCancelled() {
    return this.track?.getSettings().echoCancellation !== false;
  }

  /** The devices to choose from: [{id, label}]; empty until the browser has given one of them to this page. */
  async devices() {
    const all = (await navigator.mediaDevices?.enumerateDevices?.().catch(() => [])) ?? [];
    return all
      .filter(({ kind, deviceId }) => kind === "audioinput" && !NO_DEVICES.includes(deviceId))
      .map(({ deviceId: id, label }) => ({ id, label }));
  }

  /**
   * Calls made while the browser asks for permission share one result; after `close` it opens nothing.
   * Raises the DOMException of getUserMedia, or an Error named "InsecureContext" where there is none.
   * @param {string} deviceId "" for the system's default, which also stands in for a device that is not connected
   */
  open(deviceId) {
    if (!this.opening) {
      const opening = this.ask(deviceId, () => opening === this.opening);
      opening.catch(() => opening === this.opening && this.close());
      this.opening = opening;
    }
    return this.opening;
  }

  async ask(deviceId, isCurrent) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw Object.assign(new Error("no getUserMedia"), { name: "InsecureContext" });
    }
    const stream = await getStream(deviceId);
    const opened = { stream };
    stream.getAudioTracks()[0].addEventListener("ended", () => {
      if (opened !== this.current) return;
      this.close();
      this.handlers.onLost();
    });
    try {
      if (isCurrent()) Object.assign(opened, await this.connect(stream));
    } finally {
      if (isCurrent() && opened.node) this.current = opened;
      else this.release(opened);
    }
  }

  async connect(stream) {
    let context = this.sound.context;
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
    const shift = this.sound.context.currentTime - context.currentTime;
    node.port.onmessage = ({ data }) => {
      this.handlers.onCapture(data.samples, data.endTime + shift - data.samples.length / SAMPLE_RATE);
    };
    source.connect(node).connect(context.destination); // it puts out silence; unconnected nodes may not run
    return { context, source, node };
  }

  setMuted(muted) {
    if (this.track) this.track.enabled = !muted;
  }

  close() {
    this.opening = null;
    if (this.current) this.release(this.current);
    this.current = null;
  }

  /** Only the stream is there if it was never connected. */
  release({ stream, source, node, context = this.sound.context }) {
    if (node) node.port.onmessage = null;
    source?.disconnect();
    node?.disconnect();
    for (const track of stream.getTracks()) track.stop();
    if (context !== this.sound.context) context.close();
  }
}

async function getStream(deviceId) {
  const open = (audio) => navigator.mediaDevices.getUserMedia({ audio });
  if (deviceId) {
    try {
      return await open({ ...PREFERENCES, deviceId: { exact: deviceId } });
    } catch (error) {
      if (!ABSENT.includes(error.name)) throw error;
    }
  }
  return open(PREFERENCES);
}
