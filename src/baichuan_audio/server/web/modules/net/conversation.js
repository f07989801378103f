/** One conversation over the Realtime protocol: whose turn it is, and what is sent and shown for it. */
import { Connection } from "./connection.js";
import { EchoDetector } from "../audio/echo_detector.js";
import { hasText, t } from "../ui/i18n.js";
import { Listener } from "../audio/listener.js";
import { Microphone } from "../audio/microphone.js";
import { SAMPLE_RATE, toBase64 } from "../audio/pcm.js";
import { Playback } from "../audio/playback.js";
import { Replay } from "../audio/replay.js";
import { SilenceMonitor } from "../audio/silence_monitor.js";
import { Sound } from "../audio/sound.js";

const RESTORED_TURNS = 20;
const QUIET = "quiet"; // an error in answer to such an event is not shown: the event came too late to matter
const NO_SPEECH = "no_speech"; // the error code of a request to answer a turn without speech: the turn shows it

export class Conversation {
  /**
   * @param {object} parts settings, transcript, recording, meter, metrics, notices
   * @param {object} view onState(name), onVoices(names), onDevices(), onEvent(way, event), onKeyNeeded(),
   *   chooseMicrophone(): show where; announce(text), announceTurn(turn): to screen readers
   */
  constructor({ view, ...parts }) {
    Object.assign(this, parts, { view });
    this.sound = new Sound((report) => this.playback.report(report));
    this.microphone = new Microphone(this.sound, {
      onCapture: (samples, start) => this.capture(samples, start),
      onLost: () => this.microphoneLost(),
      onDevices: () => this.devicesChanged(),
    });
    this.listener = new Listener((int16) => this.sendSound(int16), this.recording, this.meter);
    this.silence = new SilenceMonitor((silent) => this.showSilence(silent));
    this.echo = new EchoDetector(() => this.suggestHeadphones("hint.echo"));
    this.replay = new Replay(this.sound, () => this.replayChanged());
    this.playback = new Playback({
      ...parts,
      sound: this.sound,
      onStart: () => this.replyStarted(),
      onEnd: (turn) => this.replyEnded(turn),
      onChange: () => this.refresh(),
    });
    this.connection = new Connection(this.settings, this.notices, {
      onEvent: (event) => this.receive(event),
      onSent: (event) => view.onEvent("sent", event),
      onVoices: view.onVoices,
      onPhase: () => this.refresh(),
      onOpen: (again) => this.begin(again),
      onLost: () => this.lost(),
      onGiveUp: (text, kind) => this.stop(text, kind),
    });
    this.asking = 0; // how often the browser is being asked for the microphone
    this.releasing = false;
    this.onOpen = null; // called once, when the next session begins
    this.resetTurn();
  }

  resetTurn() {
    this.userSpeaking = false;
    this.response = null;
    this.requested = null; // the id of the newest response.create
    this.awaiting = false; // whether a reply is expected or on its way
    this.awaitingItem = null; // the person's item that it answers
    this.turnEnd = null;
    this.heldClip = null; // of a held turn that is not committed yet, as in `spoken`
    this.spoken = new Map(); // the person's item -> where its sound begins and ends in what was sent
  }

  get phase() {
    return this.connection.phase;
  }

  get state() {
    if (this.phase === "connecting" && this.asking > 0) return "asking";
    if (this.phase !== "open") return this.phase;
    if (this.userSpeaking || this.listener.held) return "hearing";
    if (this.replay.turn) return "replaying";
    if (this.playback.playing) return "speaking";
    if (this.awaiting) return "thinking";
    if (!this.settings.handsFree || !this.microphone.active) return "ready";
    return this.listener.muted ? "muted" : "listening";
  }

  refresh() {
    this.view.onState(this.state);
  }

  // --- beginning and end --------------------------------------------------------------------------------------

  /** From a click or a key. Without a microphone the conversation is typed, and still spoken by the model. */
  async start({ microphone = true } = {}) {
    if (this.phase !== "offline") return;
    const { round } = this.connection;
    this.notices.show("");
    this.notices.reset();
    this.echo.reset();
    this.connection.begin();
    this.replay.stop();
    try {
      await this.sound.open();
    } catch (error) {
      this.stop(t("error.sound", { why: error.message }));
      return;
    }
    if (microphone) await this.openMicrophone();
    if (round === this.connection.round) await this.connection.connect();
  }

  /** End the conversation. @param {string} text why, where it was not the person who ended it */
  stop(text = "", kind = "error") {
    this.replay.stop();
    this.connection.end();
    this.microphone.close();
    this.playback.cut().then(() => this.phase === "offline" && !this.replay.turn && this.sound.rest());
    this.resetTurn();
    this.meter.stop();
    this.notices.reset();
    this.notices.show(text, kind);
    if (kind === "key") this.view.onKeyNeeded();
    this.refresh();
  }

  async lost() {
    this.resetTurn();
    this.listener.held = false;
    await this.playback.cut();
  }

  /** A new session was made: send the settings and, after a lost connection, the turns so far. */
  begin(again) {
    this.configure();
    this.sessionStart = this.listener.sent;
    const turns = this.transcript.all.filter((turn) => turn.text && !turn.forgotten).slice(-RESTORED_TURNS);
    for (const { role, text } of turns) {
      const content = [{ type: role === "user" ? "input_text" : "output_text", text }];
      this.send({ type: "conversation.item.create", item: { type: "message", role, content } }, QUIET);
    }
    this.meter.start();
    if (again) this.notices.show(t("restored"), "note");
    this.refresh();
    this.onOpen?.();
    this.onOpen = null;
  }

  send(event, prefix) {
    return this.connection.send(event, prefix);
  }

  /** Hands-free or push-to-talk; a turn that was begun is dropped. */
  setMode(handsFree) {
    this.listener.handsFree = handsFree;
    this.listener.held = false;
    this.userSpeaking = false;
    if (this.phase !== "open") return this.refresh();
    this.send({ type: "input_audio_buffer.clear" });
    this.configure();
  }

  configure() {
    this.listener.handsFree = this.settings.handsFree;
    const session = this.settings.session(this.connection.model);
    this.instructed ||= session.instructions !== "";
    if (!this.instructed) delete session.instructions; // the server has default instructions
    this.send({ type: "session.update", session });
    this.refresh();
  }

  // --- the microphone -----------------------------------------------------------------------------------------

  /** @returns {Promise<boolean>} whether it is open now; if not, a notice says why */
  async openMicrophone({ muted = false } = {}) {
    const { round } = this.connection;
    let error = null;
    this.asking += 1;
    this.refresh();
    await this.microphone.open(this.settings.microphone).catch((why) => (error = why));
    this.asking -= 1;
    if (round !== this.connection.round) return false;
    this.view.onDevices();
    if (error) {
      const key = `error.${error.name}`;
      this.notices.show(hasText(key) ? t(key) : t("error.microphone", { why: error.message }), "error");
      this.refresh();
      return false;
    }
    this.notices.show(""); // that it was not allowed before
    this.silence.reset();
    this.mute(muted);
    return true;
  }

  /** Use another device from now on. */
  async switchMicrophone() {
    if (!this.microphone.active) return;
    this.microphone.close();
    await this.openMicrophone({ muted: this.listener.muted });
  }

  /** It was unplugged, or the permission was taken back: go on with another one if there is any. */
  async microphoneLost() {
    this.listener.held = false;
    const opened = await this.openMicrophone({ muted: this.listener.muted });
    if (opened) this.notices.show(t("microphoneChanged", { name: this.microphone.label }), "note");
    else if (this.userSpeaking) this.listener.finish();
  }

  /** What the person chose may be there again. */
  async devicesChanged() {
    this.view.onDevices();
    const chosen = this.settings.microphone;
    if (!chosen || !this.microphone.active || this.microphone.deviceId === chosen) return;
    if ((await this.microphone.devices()).some(({ id }) => id === chosen)) await this.switchMicrophone();
  }

  async mute(muted) {
    if (!muted && !this.microphone.active && !(await this.openMicrophone())) return;
    this.listener.setMuted(muted);
    this.microphone.setMuted(muted);
    this.silence.reset();
    this.refresh();
  }

  capture(samples, start) {
    // What the browser leaves of the microphone while it takes the loudspeaker's sound out of it may be nothing.
    if (!this.listener.muted && !this.playback.playing && !this.replay.turn) this.silence.add(samples);
    this.listener.capture(samples, start);
  }

  showSilence(silent) {
    if (!silent) return this.notices.clearHint("silence");
    const name = this.microphone.label;
    const text = name ? t("hint.silence", { name }) : t("hint.silenceUnnamed");
    const action = { label: t("chooseMicrophone"), run: () => this.view.chooseMicrophone() };
    this.notices.setHint("silence", text, action);
  }

  suggestHeadphones(key) {
    this.notices.setHint("headphones", t(key));
  }

  sendSound(int16) {
    if (this.phase !== "open") return false;
    if (this.connection.realtime.congested) {
      this.notices.show(t("error.slow"), "error");
      return false;
    }
    return this.send({ type: "input_audio_buffer.append", audio: toBase64(int16) }) !== "";
  }

  // --- the person's side --------------------------------------------------------------------------------------

  async press() {
    if (this.phase !== "open" || this.listener.held) return;
    if (!this.microphone.active) {
      await this.openMicrophone(); // asking for it takes the press away
      return;
    }
    this.interrupt();
    this.send({ type: "input_audio_buffer.clear" });
    this.heldFrom = this.listener.sent;
    this.listener.press();
    this.refresh();
  }

  async release() {
    if (!this.listener.held || this.releasing) return;
    this.releasing = true;
    const long = await this.listener.release();
    this.releasing = false;
    if (long) {
      this.heldClip = { from: this.heldFrom, to: this.listener.sent };
      this.send({ type: "input_audio_buffer.commit" });
      this.request();
    } else {
      this.send({ type: "input_audio_buffer.clear" });
      this.notices.show(t("error.tooShort"), "note");
    }
    this.refresh();
  }

  async write(text) {
    if (this.phase !== "open") return;
    await this.interrupt();
    const id = `item_${crypto.getRandomValues(new Uint32Array(2)).join("")}`;
    this.transcript.setText(this.transcript.add("user", id), text);
    const item = { id, type: "message", role: "user", content: [{ type: "input_text", text }] };
    this.send({ type: "conversation.item.create", item });
    this.awaitingItem = id;
    this.request();
  }

  request() {
    this.requested = this.send({ type: "response.create" });
    this.turnEnd = performance.now();
    this.awaiting = true;
    this.refresh();
  }

  /** By a button or a new turn. `byServer`: the server has cancelled the response already. */
  async interrupt({ byServer = false } = {}) {
    this.replay.stop();
    if (!byServer && this.response) {
      this.send({ type: "response.cancel", response_id: this.response }, QUIET);
    }
    this.awaiting = false;
    for (const { item, contentIndex, milliseconds } of await this.playback.cut()) {
      const event = { item_id: item, content_index: contentIndex, audio_end_ms: milliseconds };
      this.send({ type: "conversation.item.truncate", ...event }, QUIET);
    }
  }

  /** Play a turn's sound again, or stop doing so. Meanwhile the microphone is not listened to. */
  async replayTurn(turn) {
    if (this.replay.turn === turn) return this.replay.stop();
    const samples = this.recording.clip(turn.role, turn.clip.from, turn.clip.to);
    if (samples === null) return this.notices.show(t("notKept"), "note");
    await this.interrupt();
    await this.replay.play(turn, samples);
  }

  replayChanged() {
    this.listener.setPaused(this.replay.turn !== null);
    this.transcript.showReplaying(this.replay.turn);
    if (this.phase === "offline" && !this.replay.turn) this.sound.rest();
    this.refresh();
  }

  // --- the server's side --------------------------------------------------------------------------------------

  receive(event) {
    this.view.onEvent("received", event);
    this.handlers[event.type]?.call(this, event);
  }

  handlers = {
    "input_audio_buffer.speech_started": (event) => this.speechStarted(event),
    "input_audio_buffer.speech_stopped": (event) => this.speechStopped(event),
    "input_audio_buffer.cleared": () => this.speechCleared(),
    "input_audio_buffer.committed": ({ item_id: item }) => this.committed(item),
    "conversation.item.input_audio_transcription.delta": ({ item_id: item, delta }) => {
      const turn = this.transcript.add("user", item);
      this.transcript.setWaiting(turn, false);
      this.transcript.setText(turn, turn.text + delta);
    },
    "conversation.item.input_audio_transcription.completed": (event) => this.transcribed(event),
    "conversation.item.input_audio_transcription.failed": ({ item_id: item }) => {
      const turn = this.transcript.add("user", item);
      this.transcript.setWaiting(turn, false);
      this.transcript.setNote(turn, "end", "error.transcription");
    },
    "response.created": ({ response }) => {
      this.response = response.id;
      this.awaiting = true;
      this.refresh();
    },
    "response.output_item.added": ({ item }) => {
      if (item.type === "message") this.playback.add(item.id);
    },
    "response.output_audio.delta": (event) => this.playback.addSound(event, this.turnEnd),
    "response.output_audio_transcript.delta": (event) => this.playback.addSpokenText(event),
    "response.output_text.delta": (event) => this.playback.addWrittenText(event),
    "response.output_audio.done": ({ item_id: item }) => this.playback.end(item),
    "response.done": ({ response }) => this.responseDone(response),
    error: ({ error }) => this.failed(error),
  };

  speechStarted({ item_id: item, audio_start_ms: start }) {
    this.userSpeaking = true;
    this.spoken.set(item, { from: this.sentAt(start) });
    if (this.settings.interruptible) {
      if (this.playback.playing) this.echo.interrupted(item, this.playback.playing.captions.text);
      this.interrupt({ byServer: true });
    }
    this.transcript.setWaiting(this.transcript.add("user", item), true);
    this.refresh();
  }

  speechStopped({ item_id: item, audio_end_ms: end }) {
    this.userSpeaking = false;
    this.turnEnd = performance.now();
    this.awaiting = true;
    if (this.spoken.has(item)) this.spoken.get(item).to = this.sentAt(end);
    this.refresh();
  }

  /** @param {number} milliseconds of this session's sound -> the listener's count of samples sent */
  sentAt(milliseconds) {
    return this.sessionStart + Math.round((milliseconds * SAMPLE_RATE) / 1000);
  }

  committed(item) {
    const turn = this.transcript.add("user", item);
    this.transcript.setWaiting(turn, true);
    this.awaitingItem = item;
    const clip = this.spoken.get(item) ?? this.heldClip;
    this.spoken.delete(item);
    this.heldClip = null;
    if (clip?.to) this.transcript.setClip(turn, clip);
  }

  transcribed({ item_id: item, transcript }) {
    const text = transcript.trim();
    const turn = this.transcript.add("user", item);
    this.transcript.setWaiting(turn, false);
    this.transcript.setText(turn, text);
    this.echo.transcribed(item, text);
    if (text) return this.view.announceTurn(turn);
    this.transcript.setNothing(turn);
    this.view.announce(t("nothing"));
    if (this.awaitingItem === item && !this.response) this.awaiting = false; // a turn without speech gets no reply
    this.refresh();
  }

  speechCleared() {
    this.userSpeaking = false;
    for (const turn of this.transcript.all) {
      if (turn.role === "user" && turn.element.classList.contains("waiting")) this.transcript.remove(turn);
    }
    this.refresh();
  }

  replyStarted() {
    if (this.microphone.active && !this.microphone.echoCancelled) this.suggestHeadphones("hint.noCancellation");
  }

  /** It was played or shown to its end. */
  replyEnded(turn) {
    this.echo.completed();
    this.view.announceTurn(turn);
  }

  responseDone(response) {
    for (const item of response.output ?? []) this.playback.end(item.id);
    if (response.id === this.response) {
      this.response = null;
      this.awaiting = false;
      this.turnEnd = null;
    }
    const details = response.status_details;
    if (response.status === "failed") {
      const why = details?.error?.message ?? details?.error?.code ?? details?.reason ?? "";
      this.notices.show(t("error.reply", { why }), "error");
    } else if (response.status === "incomplete") {
      this.showIncomplete(response, details?.reason);
    }
    this.refresh();
  }

  showIncomplete({ output = [] }, reason) {
    const key = reason === "max_output_tokens" ? "incomplete.length" : "incomplete.stopped";
    const turns = output.map(({ id }) => this.transcript.get(id)).filter(Boolean);
    for (const turn of turns) {
      turn.forgotten = key === "incomplete.stopped"; // the server does not keep what it stopped
      this.transcript.setNote(turn, "end", key);
    }
    if (turns.length === 0) this.notices.show(t(key), "error");
  }

  failed(error) {
    if (error.event_id?.startsWith(QUIET)) return;
    if (this.connection.closesFor(error)) return;
    if (error.event_id === this.requested) this.awaiting = false;
    this.refresh();
    if (error.code !== NO_SPEECH) this.notices.show(error.message, "error");
  }
}
