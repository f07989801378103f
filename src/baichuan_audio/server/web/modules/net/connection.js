/** Keeps a session with the server: connects, retries, and says in one sentence why when it cannot connect. */
import { t } from "../ui/i18n.js";
import { Realtime, askServer, carries } from "./realtime.js";

const RETRY_SECONDS = [1, 2, 4, 8, 15, 15];
const TRY_AGAIN_LATER = 1013; // the close code of a server with no free slot
/** Error codes after which trying again at once is of no use -> the text for them. */
const FINAL = {
  invalid_api_key: "error.key",
  session_idle: "error.idle",
  session_expired: "error.expired",
};
/** Error codes that come right before the connection is closed -> the text for them while trying again. */
const PASSING = {
  server_full: "busy",
  session_shutdown: "shutdown",
  shutting_down: "shutdown",
};

export class Connection {
  /**
   * phase: "offline", "connecting", "waiting" (for a slot on a busy server), "open".
   * @param {import("../ui/settings.js").Settings} settings
   * @param {import("../ui/notices.js").Notices} notices
   * @param {object} handlers onEvent(event), onSent(event), onVoices(names), onPhase(), onOpen(again), async onLost(),
   *   onGiveUp(text, kind): the conversation is over
   */
  constructor(settings, notices, handlers) {
    Object.assign(this, { settings, notices, handlers });
    this.realtime = new Realtime({
      onEvent: (event) => this.receive(event),
      onSent: handlers.onSent,
      onClose: (close) => this.closed(close),
    });
    this.phase = "offline";
    this.model = null;
    this.attempt = 0;
    this.round = 0; // one more with every end: what was begun before it is dropped
    this.fatal = null;
    this.hadSession = false; // in this round
  }

  send(event, prefix) {
    return this.realtime.send(event, prefix);
  }

  /** The person wants a conversation; `connect` follows when sound and microphone are ready. */
  begin() {
    this.phase = "connecting";
    this.handlers.onPhase();
  }

  async connect() {
    clearTimeout(this.retryTimer);
    this.fatal = null;
    if (!carries(this.settings.key)) return this.handlers.onGiveUp(t("error.keyCharacters"), "key");
    const round = this.round;
    const { status, models } = await askServer(this.settings.key);
    if (round !== this.round || this.phase === "offline") return;
    if (status === 401) return this.handlers.onGiveUp(t("error.key"), "key");
    if (status === 0) return this.retry("unreachable");
    this.model = models[0]?.id ?? null;
    this.handlers.onVoices(models[0]?.voices ?? []);
    this.realtime.connect(this.model, this.settings.key);
  }

  /** After the countdown, or by its button. */
  reconnect() {
    this.notices.show(""); // and with it the button, which would connect twice
    return this.connect();
  }

  end() {
    clearTimeout(this.retryTimer);
    this.round += 1;
    this.attempt = 0;
    this.hadSession = false;
    this.realtime.close();
    this.phase = "offline";
  }

  receive(event) {
    if (event.type === "session.created") {
      const again = this.hadSession;
      this.phase = "open";
      this.attempt = 0;
      this.hadSession = true;
      if (this.notices.message?.kind === "retry") this.notices.show("");
      this.handlers.onOpen(again);
    }
    this.handlers.onEvent(event);
  }

  /** An error event. @returns {boolean} whether the connection is about to be closed for it: the notice comes then */
  closesFor(error) {
    this.fatal = error;
    return error.code in FINAL || error.code in PASSING;
  }

  async closed({ code, opened }) {
    const reason = this.fatal?.code;
    const busy = code === TRY_AGAIN_LATER || reason === "server_full";
    this.phase = busy ? "waiting" : "connecting";
    const phase = this.phase;
    await this.handlers.onLost();
    if (this.phase !== phase) return;
    if (FINAL[reason]) this.handlers.onGiveUp(t(FINAL[reason]), reason === "invalid_api_key" ? "key" : "error");
    else if (!busy && !opened && this.attempt === 0) this.handlers.onGiveUp(t("error.refused"), "error");
    else this.retry(busy ? "busy" : (PASSING[reason] ?? "lost"));
  }

  /** @param {string} why of the texts "retry.WHY", with a countdown, and "error.WHY", when it is given up */
  retry(why) {
    if (this.attempt >= RETRY_SECONDS.length) return this.handlers.onGiveUp(t(`error.${why}`), "error");
    this.phase = why === "busy" ? "waiting" : "connecting";
    let left = RETRY_SECONDS[this.attempt++];
    this.handlers.onPhase();
    const action = { label: t("reconnect"), run: () => this.reconnect() };
    const tick = () => {
      if (left === 0) return this.reconnect();
      this.notices.show(t(`retry.${why}`, { n: left }), "retry", action);
      left -= 1;
      this.retryTimer = setTimeout(tick, 1000);
    };
    tick();
  }
}
