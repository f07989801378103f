/** One conversation over the Realtime protocol: the connection, its events, and whose turn it is. */
import { Playback } from "./playback.js";
import { Listener } from "./listener.js";
import { toBase64 } from "./pcm.js";
import { Realtime, askServer, carries } from "./realtime.js";
import { Sound } from "./sound.js";
import { hasText, t } from "./i18n.js";

const RESTORED_TURNS = 20;
const RETRY_SECONDS = [1, 2, 4, 8, 15, 15];
const QUIET = "quiet"; // an error in answer to such an event is no news: it came too late to matter
/** Error codes after which trying again at once is of no use -> the words for them. */
const FINAL = {
  invalid_api_key: "error.key",
  session_idle: "error.idle",
  session_expired: "error.expired",
};
const SHUTDOWN = ["session_shutdown", "shutting_down"];

export class Conversation {
  /**
   * @param {import("./settings.js").Settings} settings
   * @param {object} view onState(name), onFigure(name, value), onMessage(text, kind), onVoices(names), onEvent(way, event)
   */
  constructor({ settings, transcript, recording, meter, view }) {
    Object.assign(this, { settings, transcript, view, meter });
    this.sound = new Sound(
      (samples, start) => this.listener.capture(samples, start),
      (report) => this.playback.report(report),
      () => this.view.onMessage(t("error.microphoneLost"), "error"),
    );
    this.listener = new Listener((int16) => this.sendSound(int16), recording, meter);
    this.playback = new Playback({
      sound: this.sound,
      transcript,
      recording,
      meter,
      onChange: () => this.refresh(),
      onFigure: view.onFigure,
    });
    this.realtime = new Realtime({
      onEvent: (event) => this.receive(event),
      onSent: (event) => view.onEvent("sent", event),
      onClose: (close) => this.closed(close),
    });
    this.phase = "offline";
    this.model = null;
    this.attempt = 0;
    this.round = 0; // one more with every end: what was begun before it is not carried on
    this.fatal = null;
    this.releasing = false;
    this.onOpen = null; // called once, when the next session begins
    this.forgetTurn();
  }

  forgetTurn() {
    this.userSpeaking = false;
    this.response = null;
    this.awaiting = false;
    this.turnEnd = null;
  }

  get state() {
    if (this.phase !== "open") return this.phase;
    if (this.userSpeaking || this.listener.held) return "hearing";
    if (this.playback.playing) return "speaking";
    if (this.awaiting) return "thinking";
    if (!this.settings.handsFree || !this.sound.microphone) return "ready";
    return this.listener.muted ? "muted" : "listening";
  }

  refresh() {
    this.view.onState(this.state);
  }

  // --- connection ---------------------------------------------------------------------------------------------

  /** From a click or a key. Without a microphone the conversation is typed, and still spoken by the model. */
  async start({ microphone = true } = {}) {
    if (this.phase !== "offline") return;
    const round = this.round;
    this.phase = "connecting";
    this.view.onMessage("");
    this.refresh();
    try {
      await this.sound.open();
    } catch (error) {
      this.stop(t("error.sound", { why: error.message }));
      return;
    }
    if (microphone) await this.openMicrophone();
    if (round === this.round) await this.connect();
  }

  async openMicrophone() {
    const round = this.round;
    let error = null;
    await this.sound.openMicrophone().catch((why) => (error = why));
    if (round !== this.round) return false;
    if (error) {
      const key = `error.${error.name}`;
      this.view.onMessage(hasText(key) ? t(key) : t("error.microphone", { why: error.message }), "error");
      return false;
    }
    this.view.onMessage(""); // that it was not allowed before
    this.mute(false);
    return true;
  }

  async connect() {
    clearTimeout(this.retryTimer);
    this.fatal = null;
    if (!carries(this.settings.key)) return this.stop(t("error.keyCharacters"), "key");
    const round = this.round;
    const { status, models } = await askServer(this.settings.key);
    if (round !== this.round || this.phase !== "connecting") return;
    if (status === 401) return this.stop(t("error.key"), "key");
    if (status === 0) return this.retry("error.unreachable");
    this.model = models[0]?.id ?? null;
    this.view.onVoices(models[0]?.voices ?? []);
    this.realtime.connect(this.model, this.settings.key);
  }

  /** The countdown is over, or the person would not wait for it. */
  reconnect() {
    this.view.onMessage(""); // and with it the button, which would connect twice
    return this.connect();
  }

  /** The person's wish, or with `message` an end that they should know of. */
  stop(message = "", kind = "error") {
    clearTimeout(this.retryTimer);
    this.round += 1;
    this.realtime.close();
    this.sound.closeMicrophone();
    this.phase = "offline";
    this.playback.cut().then(() => this.phase === "offline" && this.sound.rest());
    this.attempt = 0;
    this.forgetTurn();
    this.meter.stop();
    this.view.onMessage(message, kind);
    this.refresh();
  }

  async closed({ code, opened }) {
    this.phase = "connecting";
    this.forgetTurn();
    await this.playback.cut();
    if (this.phase !== "connecting") return;
    const reason = this.fatal?.code;
    if (FINAL[reason]) this.stop(t(FINAL[reason]), reason === "invalid_api_key" ? "key" : "error");
    else if (code === 1013 || reason === "server_full") this.retry("error.full");
    else if (!opened && this.attempt === 0) this.stop(t("error.refused"));
    else this.retry(SHUTDOWN.includes(reason) ? "error.shutdown" : "error.lost");
  }

  retry(key) {
    if (this.attempt >= RETRY_SECONDS.length) return this.stop(t(key));
    let left = RETRY_SECONDS[this.attempt++];
    this.refresh();
    const tick = () => {
      if (left === 0) return this.reconnect();
      this.view.onMessage(`${t(key)} ${t("retrying", { n: left })}`, "retry");
      left -= 1;
      this.retryTimer = setTimeout(tick, 1000);
    };
    tick();
  }

  /** A new session was made: tell it the settings and, after a lost connection, what had been said. */
  begin() {
    const again = this.attempt > 0;
    this.phase = "open";
    this.attempt = 0;
    this.configure();
    for (const turn of this.transcript.all.filter((each) => each.text).slice(-RESTORED_TURNS)) {
      const type = turn.role === "user" ? "input_text" : "output_text";
      const item = { type: "message", role: turn.role, content: [{ type, text: turn.text }] };
      this.realtime.send({ type: "conversation.item.create", item }, QUIET);
    }
    this.meter.start();
    if (again) this.view.onMessage(t("restored"), "note");
    this.refresh();
    this.onOpen?.();
    this.onOpen = null;
  }

  /** Hands-free or held to talk; what was half said is forgotten. */
  setMode(handsFree) {
    this.listener.handsFree = handsFree;
    this.listener.held = false;
    this.userSpeaking = false;
    if (this.phase !== "open") return this.refresh();
    this.realtime.send({ type: "input_audio_buffer.clear" });
    this.configure();
  }

  configure() {
    this.listener.handsFree = this.settings.handsFree;
    const session = this.settings.session(this.model);
    this.instructed ||= session.instructions !== "";
    if (!this.instructed) delete session.instructions; // the server has words of its own
    this.realtime.send({ type: "session.update", session });
    this.refresh();
  }

  // --- the person's side --------------------------------------------------------------------------------------

  sendSound(int16) {
    if (this.phase !== "open") return false;
    if (this.realtime.congested) {
      this.view.onMessage(t("error.slow"), "error");
      return false;
    }
    return this.realtime.send({ type: "input_audio_buffer.append", audio: toBase64(int16) }) !== "";
  }

  async mute(muted) {
    if (!muted && !this.sound.microphone && !(await this.openMicrophone())) return;
    this.listener.setMuted(muted);
    this.sound.setMuted(muted);
    this.refresh();
  }

  async press() {
    if (this.phase !== "open" || this.listener.held) return;
    if (!this.sound.microphone) {
      await this.openMicrophone(); // asking for it takes the press away
      return;
    }
    this.interrupt();
    this.realtime.send({ type: "input_audio_buffer.clear" });
    this.listener.press();
    this.refresh();
  }

  async release() {
    if (!this.listener.held || this.releasing) return;
    this.releasing = true;
    const long = await this.listener.release();
    this.releasing = false;
    if (long) {
      this.realtime.send({ type: "input_audio_buffer.commit" });
      this.request();
    } else {
      this.realtime.send({ type: "input_audio_buffer.clear" });
      this.view.onMessage(t("error.tooShort"), "error");
    }
    this.refresh();
  }

  async write(text) {
    if (this.phase !== "open") return;
    await this.interrupt();
    const id = `item_${crypto.getRandomValues(new Uint32Array(2)).join("")}`;
    this.transcript.setText(this.transcript.add("user", id), text);
    const item = { id, type: "message", role: "user", content: [{ type: "input_text", text }] };
    this.realtime.send({ type: "conversation.item.create", item });
    this.request();
  }

  request() {
    this.realtime.send({ type: "response.create" });
    this.turnEnd = performance.now();
    this.awaiting = true;
    this.refresh();
  }

  /** By a button or a new turn; `told`: the server has heard it itself. */
  async interrupt({ told = false } = {}) {
    if (!told && this.response) {
      this.realtime.send({ type: "response.cancel", response_id: this.response }, QUIET);
    }
    this.awaiting = false;
    for (const { item, contentIndex, milliseconds } of await this.playback.cut()) {
      const event = { item_id: item, content_index: contentIndex, audio_end_ms: milliseconds };
      this.realtime.send({ type: "conversation.item.truncate", ...event }, QUIET);
    }
  }

  // --- the server's side --------------------------------------------------------------------------------------

  receive(event) {
    this.view.onEvent("received", event);
    this.handlers[event.type]?.call(this, event);
  }

  handlers = {
    "session.created": () => this.begin(),
    "input_audio_buffer.speech_started": (event) => this.speechStarted(event),
    "input_audio_buffer.speech_stopped": () => this.speechStopped(),
    "input_audio_buffer.cleared": () => this.speechForgotten(),
    "input_audio_buffer.committed": ({ item_id: item }) => {
      this.transcript.setWaiting(this.transcript.add("user", item), true);
    },
    "conversation.item.input_audio_transcription.delta": ({ item_id: item, delta }) => {
      const turn = this.transcript.add("user", item);
      this.transcript.setWaiting(turn, false);
      this.transcript.setText(turn, turn.text + delta);
    },
    "conversation.item.input_audio_transcription.completed": ({ item_id: item, transcript }) => {
      const turn = this.transcript.add("user", item);
      this.transcript.setWaiting(turn, false);
      this.transcript.setText(turn, transcript.trim());
      this.transcript.setNote(turn, turn.text ? "" : t("notUnderstood"));
    },
    "conversation.item.input_audio_transcription.failed": ({ item_id: item }) => {
      const turn = this.transcript.add("user", item);
      this.transcript.setWaiting(turn, false);
      this.transcript.setNote(turn, t("error.transcription"));
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

  speechStarted({ item_id: item }) {
    this.userSpeaking = true;
    if (this.settings.interruptible) this.interrupt({ told: true });
    this.transcript.setWaiting(this.transcript.add("user", item), true);
    this.refresh();
  }

  speechStopped() {
    this.userSpeaking = false;
    this.turnEnd = performance.now();
    this.awaiting = true;
    this.refresh();
  }

  speechForgotten() {
    this.userSpeaking = false;
    for (const turn of this.transcript.all) {
      if (turn.role === "user" && turn.element.classList.contains("waiting")) this.transcript.remove(turn);
    }
    this.refresh();
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
      this.view.onMessage(t("error.reply", { why }), "error");
    } else if (response.status === "incomplete") {
      this.view.onMessage(t("error.cutShort"), "note");
    }
    this.refresh();
  }

  failed(error) {
    if (error.event_id?.startsWith(QUIET)) return;
    this.fatal = error; // if the connection closes now, this is why
    const key = FINAL[error.code];
    this.view.onMessage(key ? t(key) : error.message, "error");
  }
}
