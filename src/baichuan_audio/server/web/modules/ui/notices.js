/**
 * The one line above the controls. One message at a time: events come before hints, and notes disappear by themselves.
 */
const NOTE_MS = 5000;

export class Notices {
  /**
   * @param {{text: HTMLElement, action: HTMLButtonElement, close: HTMLButtonElement}} parts
   * kinds of a message: "error", "key" (one is needed), "retry" (a countdown), "note" (disappears by itself)
   */
  constructor({ text, action, close }) {
    Object.assign(this, { text, action, close });
    this.message = null;
    this.hints = new Map();
    this.dismissed = new Set();
    this.action.addEventListener("click", () => this.current?.action?.run());
    this.close.addEventListener("click", () => this.dismiss());
    this.render();
  }

  /** The message, or the newest hint when there is none. */
  get current() {
    return this.message ?? [...this.hints.values()].at(-1) ?? null;
  }

  /** @param {{label: string, run: () => void} | null} action offered beside the text; an empty text takes it away */
  show(text, kind = "note", action = null) {
    clearTimeout(this.timer);
    this.message = text ? { text, kind, action } : null;
    if (text && kind === "note") this.timer = setTimeout(() => this.show(""), NOTE_MS);
    this.render();
  }

  /** A hint that stays until it is cleared or dismissed; a dismissed one does not come back before `reset`. */
  setHint(name, text, action = null) {
    if (this.dismissed.has(name) || this.hints.has(name)) return;
    this.hints.set(name, { name, text, kind: "hint", action });
    this.render();
  }

  clearHint(name) {
    if (this.hints.delete(name)) this.render();
  }

  /** No hint is left, and none counts as dismissed. */
  reset() {
    this.hints.clear();
    this.dismissed.clear();
    this.render();
  }

  dismiss() {
    const { name } = this.current ?? {};
    if (name) {
      this.dismissed.add(name);
      this.clearHint(name);
    } else {
      this.show("");
    }
  }

  render() {
    const { text = "", kind = "", action = null } = this.current ?? {};
    this.text.parentElement.hidden = text === "";
    this.text.parentElement.dataset.kind = kind;
    this.text.setAttribute("aria-live", { retry: "off", hint: "polite", note: "polite" }[kind] ?? "assertive");
    if (this.text.textContent !== text) this.text.textContent = text;
    this.action.hidden = action === null;
    this.action.textContent = action?.label ?? "";
    this.close.hidden = kind === "retry";
  }
}
